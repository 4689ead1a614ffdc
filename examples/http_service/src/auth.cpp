#include "auth.h"

#include <jwt.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>

#include "answer.h"
#include "arguments.h"
#include "json_reader.h"

namespace usage_http {

namespace {

using token_usage::Json;

struct Free {
  void operator()(jwt_t *token) const { jwt_free(token); }
  void operator()(char *text) const { std::free(text); }
  void operator()(BIO *bio) const { BIO_free(bio); }
  void operator()(EVP_PKEY *key) const { EVP_PKEY_free(key); }
};
using Token = std::unique_ptr<jwt_t, Free>;

// RFC 7518, 3.2 and 3.3.
constexpr std::size_t least_secret = 32;
constexpr int least_rsa_bits = 2048;

jwt_alg_t wanted(Algorithm algorithm) {
  return algorithm == Algorithm::hs256 ? JWT_ALG_HS256 : JWT_ALG_RS256;
}

[[noreturn]] void unauthorized(std::string_view message, std::string_view challenge = "") {
  throw HttpError(401, message, "WWW-Authenticate",
                  "Bearer realm=\"token_usage\"" + std::string(challenge));
}

[[noreturn]] void bad_token(const std::string &why) {
  unauthorized("the token " + why,
               ", error=\"invalid_token\", error_description=\"the token " + why + "\"");
}

// The token of `Bearer <token>`.
std::string bearer(std::string_view authorization) {
  constexpr std::string_view scheme = "bearer";
  if (authorization.size() <= scheme.size() || authorization[scheme.size()] != ' ' ||
      !std::equal(scheme.begin(), scheme.end(), authorization.begin(), [](char a, char b) {
        return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b);
      })) {
    unauthorized("a bearer token is needed: Authorization: Bearer <JWT>");
  }
  authorization.remove_prefix(scheme.size());
  const std::size_t start = authorization.find_first_not_of(' ');
  return start == std::string_view::npos ? "" : std::string(authorization.substr(start));
}

// A NumericDate in microseconds; nothing where the claim is no number.
std::optional<token_usage::int128> instant(const Json &claim) {
  return claim.is(Json::Type::number) ? token_usage::scaled_from_text(claim.text, 6) : std::nullopt;
}

token_usage::int128 micros_now() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Whether the claim is `value` or an array that holds it.
bool names(const Json *claim, std::string_view value) {
  if (claim == nullptr) {
    return false;
  }
  if (claim->is(Json::Type::string)) {
    return claim->text == value;
  }
  if (claim->is(Json::Type::array)) {
    for (const Json &item : claim->items()) {
      if (item.is(Json::Type::string) && item.text == value) {
        return true;
      }
    }
  }
  return false;
}

// Scopes are one text with spaces between (RFC 8693), or an array.
bool has_scope(const Json *claim, std::string_view scope) {
  if (claim == nullptr || !claim->is(Json::Type::string)) {
    return names(claim, scope);
  }
  std::string_view rest = claim->text;
  while (!rest.empty()) {
    const std::size_t space = rest.find(' ');
    if (rest.substr(0, space) == scope) {
      return true;
    }
    rest = space == std::string_view::npos ? std::string_view() : rest.substr(space + 1);
  }
  return false;
}

void check_rsa(const std::string &pem) {
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const std::unique_ptr<EVP_PKEY, Free> key(
      PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  if (key == nullptr || EVP_PKEY_base_id(key.get()) != EVP_PKEY_RSA) {
    throw std::runtime_error(
        "RS256 needs the RSA public key of the issuer, in PEM (BEGIN PUBLIC KEY)");
  }
  if (EVP_PKEY_bits(key.get()) < least_rsa_bits) {
    throw std::runtime_error("the RSA key must have 2048 bits or more");
  }
}

void check_secret(const std::string &key) {
  if (key.find("-----BEGIN ") != std::string::npos) {
    throw std::runtime_error(
        "the key is a PEM file, which is no secret for HS256; for a public key say --jwt-algorithm "
        "RS256");
  }
  if (key.size() < least_secret) {
    throw std::runtime_error("the HS256 secret must have 32 bytes or more");
  }
}

}  // namespace

Authenticator::Authenticator(AuthOptions options) : options_(std::move(options)) {
  if (options_.algorithm == Algorithm::rs256) {
    check_rsa(options_.key);
  } else {
    check_secret(options_.key);
  }
}

std::string Authenticator::user(std::string_view authorization) const {
  const std::string text = bearer(authorization);
  jwt_t *decoded = nullptr;
  const int code = jwt_decode(&decoded, text.c_str(),
                              reinterpret_cast<const unsigned char *>(options_.key.data()),
                              static_cast<int>(options_.key.size()));
  const Token token(decoded);
  // The library takes the algorithm from the token. Ours is settled: a token that is signed by
  // another one, with our public key as if it were a secret for example, is a forgery.
  if (code != 0 || token == nullptr || jwt_get_alg(token.get()) != wanted(options_.algorithm)) {
    bad_token("is not one that this service accepts");
  }
  const std::unique_ptr<char, Free> payload(jwt_get_grants_json(token.get(), nullptr));
  if (payload == nullptr) {
    bad_token("has no claims");
  }
  const token_usage::JsonDocument document(payload.get(), "token");
  const Json &claims = document.root();

  const token_usage::int128 now = micros_now();
  const token_usage::int128 leeway = token_usage::int128{options_.leeway.count()} * 1'000'000;
  const Json *const expires = claims.find("exp");
  const auto end = expires == nullptr ? std::nullopt : instant(*expires);
  if (!end) {
    bad_token("has no time of expiry");
  }
  if (now >= *end + leeway) {
    bad_token("has expired");
  }
  if (const Json *const starts = claims.find("nbf")) {
    const auto start = instant(*starts);
    if (!start || now + leeway < *start) {
      bad_token("is not valid yet");
    }
  }
  if (!options_.issuer.empty()) {
    const Json *const issuer = claims.find("iss");
    if (issuer == nullptr || !issuer->is(Json::Type::string) || issuer->text != options_.issuer) {
      bad_token("is of another issuer");
    }
  }
  // RFC 7519 wants text; issuers whose users have numbers write numbers.
  const Json *const subject = claims.find("sub");
  if (subject == nullptr || subject->text.empty() ||
      !(subject->is(Json::Type::string) ||
        (subject->is(Json::Type::number) && token_usage::count_from_number(subject->text)))) {
    bad_token("names no subject");
  }

  if (!options_.audience.empty() && !names(claims.find("aud"), options_.audience)) {
    throw HttpError(403, "the token is not for this service");
  }
  if (!options_.scope.empty() && !has_scope(claims.find("scope"), options_.scope) &&
      !has_scope(claims.find("scp"), options_.scope)) {
    throw HttpError(403, "the token lacks the scope " + options_.scope, "WWW-Authenticate",
                    "Bearer realm=\"token_usage\", error=\"insufficient_scope\", scope=\"" +
                        options_.scope + "\"");
  }
  return subject->is(Json::Type::number)
             ? std::to_string(*token_usage::count_from_number(subject->text))
             : std::string(subject->text);
}

std::string make_token(const AuthOptions &options, const std::string &subject,
                       std::chrono::seconds lifetime) {
  jwt_t *made = nullptr;
  if (jwt_new(&made) != 0) {
    throw std::bad_alloc();
  }
  const Token token(made);
  const long now = static_cast<long>(micros_now() / 1'000'000);
  bool well = jwt_add_grant(made, "sub", subject.c_str()) == 0 &&
              jwt_add_grant_int(made, "iat", now) == 0 &&
              jwt_add_grant_int(made, "exp", now + static_cast<long>(lifetime.count())) == 0;
  if (!options.audience.empty()) {
    well = well && jwt_add_grant(made, "aud", options.audience.c_str()) == 0;
  }
  if (!options.issuer.empty()) {
    well = well && jwt_add_grant(made, "iss", options.issuer.c_str()) == 0;
  }
  if (!options.scope.empty()) {
    well = well && jwt_add_grant(made, "scope", options.scope.c_str()) == 0;
  }
  if (options.algorithm == Algorithm::hs256) {
    check_secret(options.key);
  }
  well = well && jwt_set_alg(made, wanted(options.algorithm),
                             reinterpret_cast<const unsigned char *>(options.key.data()),
                             static_cast<int>(options.key.size())) == 0;
  const std::unique_ptr<char, Free> text(well ? jwt_encode_str(made) : nullptr);
  if (text == nullptr) {
    throw std::runtime_error("the token could not be made; RS256 needs the private key in PEM");
  }
  return text.get();
}

}  // namespace usage_http
