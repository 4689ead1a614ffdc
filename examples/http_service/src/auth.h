// Who asks: the JSON Web Token of a request, checked by one algorithm and one key. The user is the
// token's subject and nothing else.
#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace usage_http {

enum class Algorithm { hs256, rs256 };

struct AuthOptions {
  Algorithm algorithm = Algorithm::hs256;
  std::string key;       // HS256: the secret; RS256: the public key, PEM
  std::string audience;  // empty: not asked for
  std::string issuer;
  std::string scope;
  std::chrono::seconds leeway{0};  // between our clock and the issuer's
};

class Authenticator {
 public:
  // Throws std::runtime_error where the key does not suit the algorithm.
  explicit Authenticator(AuthOptions options);

  // The user, given the value of the Authorization header (empty: there is none). Throws HttpError
  // 401, or 403 for a good token that is not for this service.
  [[nodiscard]] std::string user(std::string_view authorization) const;

 private:
  const AuthOptions options_;
};

// A token of ours, for trying the service out. `key` is the HS256 secret or the RS256 private key.
// Throws std::runtime_error.
std::string make_token(const AuthOptions &options, const std::string &subject,
                       std::chrono::seconds lifetime);

}  // namespace usage_http
