#include "static_files.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace usage_http {

namespace {

std::string type_of(const std::filesystem::path &path) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 14> types = {{
      {".html", "text/html; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".mjs", "text/javascript; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".json", "application/json"},
      {".map", "application/json"},
      {".svg", "image/svg+xml"},
      {".png", "image/png"},
      {".ico", "image/x-icon"},
      {".webp", "image/webp"},
      {".woff2", "font/woff2"},
      {".txt", "text/plain; charset=utf-8"},
      {".md", "text/plain; charset=utf-8"},
      {".webmanifest", "application/manifest+json"},
  }};
  const std::string extension = path.extension().string();
  for (const auto &[end, type] : types) {
    if (extension == end) {
      return std::string(type);
    }
  }
  return "application/octet-stream";
}

// FNV-1a: tells contents apart, which is all that an entity tag is for.
std::string tag_of(std::string_view content) {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : content) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  }
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "\"%zx-%016llx\"", content.size(),
                static_cast<unsigned long long>(hash));
  return text.data();
}

// What may be loaded: from here and from nowhere else. Swagger UI sets style attributes and draws
// its icons from data: URLs; the page needs neither.
constexpr char page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";
constexpr char swagger_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

}  // namespace

StaticFiles::StaticFiles(const std::string &folder) {
  if (folder.empty() || !std::filesystem::is_directory(folder)) {
    return;
  }
  for (const auto &entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) {
      continue;
    }
    std::ifstream in(entry.path(), std::ios::binary);
    std::ostringstream content;
    content << in.rdbuf();
    if (!in) {
      throw std::runtime_error("cannot read " + entry.path().string());
    }
    const std::filesystem::path relative = std::filesystem::relative(entry.path(), folder);
    const std::string path = relative.generic_string().insert(0, 1, '/');
    File file;
    file.owned = content.str();
    file.type = type_of(relative);
    file.lasting = path.starts_with("/assets/");
    file.swagger = path.starts_with("/docs/");
    if (relative.filename() == "index.html") {
      const std::string home = path.substr(0, path.size() - std::string_view("index.html").size());
      if (home != "/") {
        File redirect;
        redirect.redirect = home;
        put(home.substr(0, home.size() - 1), std::move(redirect));
      }
      put(home, file);
    }
    put(path, std::move(file));
  }
}

void StaticFiles::put(const std::string &path, File file) {
  File &kept = files_[path] = std::move(file);
  if (kept.content.empty()) {
    kept.content = kept.owned;
  }
  kept.tag = tag_of(kept.content);
}

void StaticFiles::add(const std::string &path, std::string_view content) {
  File file;
  file.content = content;
  file.type = type_of(path);
  put(path, std::move(file));
}

bool StaticFiles::has(std::string_view path) const {
  return files_.contains(path);
}

Answer StaticFiles::get(std::string_view path, std::string_view if_none_match) const {
  const File &file = files_.find(path)->second;
  Answer answer;
  if (!file.redirect.empty()) {
    answer.status = 301;
    answer.content_type = "text/plain; charset=utf-8";
    answer.headers.emplace_back("Location", file.redirect);
    return answer;
  }
  answer.content_type = file.type;
  answer.headers.emplace_back("ETag", file.tag);
  answer.headers.emplace_back("Cache-Control",
                              file.lasting ? "public, max-age=31536000, immutable" : "no-cache");
  answer.headers.emplace_back("Content-Security-Policy",
                              file.swagger ? swagger_policy : page_policy);
  if (if_none_match == "*" || if_none_match.find(file.tag) != std::string_view::npos) {
    answer.status = 304;
  } else {
    answer.lasting_body = file.content;
  }
  return answer;
}

}  // namespace usage_http
