# token-usage-http with the usage page and the SQLite edition. Built from the root of the repository:
#   docker build -f examples/docker/service.Dockerfile .
FROM node:22-bookworm-slim AS page
COPY examples/http_service/page /page
RUN cd /page && npm ci --no-audit --no-fund && npm run build

FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
      g++ cmake make pkg-config libcctz-dev rapidjson-dev libsqlite3-dev \
      libcli11-dev libjwt-dev libmicrohttpd-dev libpq-dev libssl-dev
COPY . /source
RUN cmake -S /source -B /build -DCMAKE_BUILD_TYPE=Release -DTOKEN_USAGE_HTTP=ON && \
    cmake --build /build --target token_usage token-usage-http --parallel

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
      libcctz2 libjwt0 libmicrohttpd12 libpq5 libsqlite3-0 libssl3 libstdc++6 tzdata ca-certificates && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /build/token-usage-http /usr/local/bin/
COPY --from=build /build/token_usage.so /usr/local/lib/token_usage/
COPY --from=page /page/dist /usr/local/share/token-usage-http/page
USER nobody
EXPOSE 8080
ENTRYPOINT ["token-usage-http"]
