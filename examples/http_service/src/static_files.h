// The files of the page and of Swagger UI. All are read into memory at start and found by their
// path as a key, so that no request can name a file that was not there.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "answer.h"

namespace usage_http {

class StaticFiles {
 public:
  // Reads the folder; an empty or missing one gives nothing. Throws std::runtime_error.
  explicit StaticFiles(const std::string &folder);

  // Adds a file that is not in the folder. `content` lives as long as the process.
  void add(const std::string &path, std::string_view content);

  [[nodiscard]] bool has(std::string_view path) const;

  // The file of a path that there is. `if_none_match` is the request's header.
  [[nodiscard]] Answer get(std::string_view path, std::string_view if_none_match) const;

  [[nodiscard]] std::size_t size() const { return files_.size(); }

 private:
  struct File {
    std::string owned;
    std::string_view content;
    std::string type;
    std::string tag;
    bool lasting = false;  // its name changes with its content
    bool swagger = false;
    std::string redirect;
  };

  void put(const std::string &path, File file);

  std::map<std::string, File, std::less<>> files_;
};

}  // namespace usage_http
