#pragma once
// Reading a config.json key by key. What nobody asked for, and what has a value that this program
// cannot honour, is an error with name and value: silence is how models get wrong logits.

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace sidewinder {

class ConfigReader {
 public:
  // `path` is for messages.
  ConfigReader(const nlohmann::ordered_json& config, const std::string& path);
  ~ConfigReader();

  // Values; a key that is absent or null gives the default. Without a default it is required.
  int64_t integer(const std::string& key, std::optional<int64_t> otherwise = std::nullopt);
  std::optional<int64_t> optional_integer(const std::string& key);
  double number(const std::string& key, std::optional<double> otherwise = std::nullopt);
  bool boolean(const std::string& key, bool otherwise);
  std::string text(const std::string& key, const std::string& otherwise);
  // The key's raw value; null if absent. It counts as read.
  const nlohmann::ordered_json& raw(const std::string& key);

  // If the key is there, its value must equal `only`; `reason` says why.
  void require(const std::string& key, const nlohmann::ordered_json& only,
               const std::string& reason);
  // Keys whose value makes no difference to what is computed.
  void ignore(const std::vector<std::string>& keys);
  void refuse(const std::string& key, const std::string& reason);

  // A whole line of text; `refuse` with key and value is better where there is one key.
  void add_problem(const std::string& text) { problems_.push_back(text); }
  bool sound() const { return problems_.empty(); }

  // What was refused, and all keys that nobody read.
  std::vector<std::string> problems() const;
  // Error{user} with all problems.
  void finish() const;

 private:
  const nlohmann::ordered_json* find(const std::string& key);

  const nlohmann::ordered_json& config_;
  std::string path_;
  std::set<std::string> known_;
  std::vector<std::string> problems_;
};

// Keys of every family that say nothing about the network.
const std::vector<std::string>& general_config_keys();

}  // namespace sidewinder
