# PostgreSQL with token_usage. Built from the root of the repository:
#   docker build -f examples/docker/postgres.Dockerfile .
FROM postgres:17-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
      g++ make rapidjson-dev postgresql-server-dev-17
COPY . /source
RUN cd /source && make with_llvm=no && make install with_llvm=no DESTDIR=/out

FROM postgres:17-bookworm
COPY --from=build /out/ /
COPY examples/docker/init-token-usage.sh /docker-entrypoint-initdb.d/
