#include "trainer/lanes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

// Of sequences without end.
bool is_bounded(const AttentionPattern& pattern) {
  const auto [begin, end] = pattern.forgettable(std::numeric_limits<int32_t>::max());
  return begin < end;
}

// Rows of one tensor per lane, each [1, …], as [rows, …]; zeros where there is none.
Var stacked(const std::vector<const LaneState*>& rows, Var LaneState::*member) {
  const Tensor* like = nullptr;
  for (const LaneState* row : rows) {
    if (row != nullptr && (row->*member).defined()) like = &(row->*member).value();
  }
  if (like == nullptr) return {};
  const auto count = static_cast<int64_t>(rows.size());
  Tensor all = Tensor::zeros({count, like->size(1), like->size(2)}, like->dtype());
  for (int64_t i = 0; i < count; ++i) {
    const LaneState* row = rows[static_cast<size_t>(i)];
    if (row != nullptr) all.slice_rows(i, i + 1).copy_from((row->*member).value());
  }
  return Var(all);
}

// Rows of keys or values per lane as rows of `capacity` each, those of a lane at their end.
Var stacked_keys(const std::vector<const LaneState*>& rows, Var LaneState::*member,
                 int64_t capacity) {
  Tensor all;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] == nullptr || !(rows[i]->*member).defined()) continue;
    const Tensor& kept = (rows[i]->*member).value();
    if (!all.defined()) {
      all = Tensor::zeros(
          {static_cast<int64_t>(rows.size()) * capacity, kept.size(1), kept.size(2)}, kept.dtype());
    }
    const int64_t end = static_cast<int64_t>(i + 1) * capacity;
    all.slice_rows(end - kept.size(0), end).copy_from(kept);
  }
  return all.defined() ? Var(all) : Var();
}

const std::pair<const char*, Var LaneState::*> kMembers[] = {{"conv", &LaneState::conv},
                                                             {"scan", &LaneState::scan},
                                                             {"keys", &LaneState::keys},
                                                             {"values", &LaneState::values}};

constexpr std::string_view kPrefix = "lanes/";

// The number at the beginning of `text`, which is cut off it with the separator that follows.
int64_t take_number(std::string_view& text, std::string_view separator) {
  int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return -1;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  if (text.substr(0, separator.size()) != separator) return -1;
  text.remove_prefix(separator.size());
  return number;
}

}  // namespace

std::vector<ContextProblem> lane_problems(const DataOptions& data, const ModelOptions& model) {
  std::vector<ContextProblem> problems;
  if (data.long_documents != LongDocuments::continue_state) return problems;
  const std::string key = "data.long_documents";
  const auto isolated = [&](bool isolates, const std::string& isolation) {
    if (isolates) return;
    problems.push_back(
        {{isolation, key},
         "false mixes documents, but \"continue_state\" carries the states of single "
         "ones from row to row",
         "set it to true, or use data.long_documents = \"continue_positions\""});
  };
  isolated(data.isolate_attention, "data.isolate_attention");
  isolated(data.isolate_state, "data.isolate_state");
  for (const auto& [letter, block] : model.blocks) {
    if (block.mixer != MixerKind::attention) continue;
    const std::string path = "model.block." + letter;
    const AttentionPattern pattern = attention_pattern(block, path);
    if (!pattern.mistake().empty()) continue;
    if (!is_bounded(pattern)) {
      problems.push_back(
          {{path + ".pattern", key},
           fmt::format("\"{}\" may see keys from any distance, but \"continue_state\" carries a "
                       "window of them from row to row",
                       name_of(block.pattern).name),
           "use a pattern with a window (window, dilated, chunked, sink_window, global_window), or "
           "data.long_documents = \"continue_positions\""});
    } else if (block.global_tokens > 0 && block.position == PositionKind::alibi) {
      problems.push_back(
          {{path + ".position", key},
           "\"alibi\" needs the distance to global tokens, but \"continue_state\" carries these "
           "without the keys between",
           "use another position, or data.long_documents = \"continue_positions\""});
    }
    if (block.position == PositionKind::rope && rope_depends_on_length(rope_options(block))) {
      problems.push_back(
          {{path + ".rope_scaling", key},
           "its frequencies change with the length of the text, but \"continue_state\" carries "
           "keys as they were turned",
           "use another rope_scaling, or data.long_documents = \"continue_positions\""});
    }
  }
  return problems;
}

LaneStates Lanes::before(const Batch& micro, int64_t first) const {
  std::vector<const LaneStates*> rows(static_cast<size_t>(micro.rows), nullptr);
  bool any = false;
  for (size_t i = 0; i < rows.size() && !micro.carried.empty(); ++i) {
    const LaneStates& lane = lanes_[static_cast<size_t>(first) + i];
    if (micro.carried[i] == 0 || lane.empty()) continue;
    rows[i] = &lane;
    any = true;
  }
  if (!any) return {};
  LaneStates result;
  for (size_t block = 0; block < letters_.size(); ++block) {
    std::vector<const LaneState*> of;
    LaneState all;
    for (const LaneStates* row : rows) {
      of.push_back(row != nullptr ? &(*row)[block] : nullptr);
      const bool has_keys = row != nullptr && of.back()->keys.defined();
      all.cached.push_back(has_keys ? of.back()->keys.value().size(0) : 0);
    }
    const int64_t capacity = *std::max_element(all.cached.begin(), all.cached.end());
    all.conv = stacked(of, &LaneState::conv);
    all.scan = stacked(of, &LaneState::scan);
    all.keys = stacked_keys(of, &LaneState::keys, capacity);
    all.values = stacked_keys(of, &LaneState::values, capacity);
    result.push_back(std::move(all));
  }
  return result;
}

void Lanes::keep(const Batch& micro, int64_t first, const LaneStates& after) {
  for (int64_t row = 0; row < micro.rows; ++row) {
    LaneStates& lane = lanes_[static_cast<size_t>(first + row)];
    lane.clear();
    if (micro.goes_on.empty() || micro.goes_on[static_cast<size_t>(row)] == 0) continue;
    for (const LaneState& block : after) {
      // Copies, which alone stay when the rows of the micro-batch are gone.
      const auto part = [](const Var& whole, int64_t begin, int64_t end) {
        return whole.defined() ? Var(whole.value().slice_rows(begin, end).clone()) : Var();
      };
      LaneState one;
      one.conv = part(block.conv, row, row + 1);
      one.scan = part(block.scan, row, row + 1);
      if (block.keys.defined()) {
        const int64_t capacity = block.keys.value().size(0) / micro.rows;
        const int64_t end = (row + 1) * capacity;
        const int64_t begin = end - block.cached[static_cast<size_t>(row)];
        one.keys = part(block.keys, begin, end);
        one.values = part(block.values, begin, end);
      }
      lane.push_back(std::move(one));
    }
  }
}

int64_t Lanes::count() const {
  return std::count_if(lanes_.begin(), lanes_.end(),
                       [](const LaneStates& lane) { return !lane.empty(); });
}

void Lanes::forget_keys(char letter) {
  for (LaneStates& lane : lanes_) {
    for (size_t block = 0; block < lane.size(); ++block) {
      if (letters_[block] == letter) lane[block].keys = lane[block].values = Var();
    }
  }
}

void Lanes::save(std::vector<NamedTensor>& tensors) const {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    for (size_t block = 0; block < lanes_[lane].size(); ++block) {
      for (const auto& [name, member] : kMembers) {
        const Var& state = lanes_[lane][block].*member;
        if (!state.defined()) continue;
        tensors.push_back(
            {fmt::format("{}{}/blocks.{}/{}", kPrefix, lane, block, name), state.value()});
      }
    }
  }
}

void Lanes::load(const std::vector<NamedTensor>& tensors, int64_t rows) {
  lanes_.assign(static_cast<size_t>(rows), {});
  for (const NamedTensor& entry : tensors) {
    std::string_view rest = entry.name;
    if (rest.substr(0, kPrefix.size()) != kPrefix) continue;
    rest.remove_prefix(kPrefix.size());
    const int64_t lane = take_number(rest, "/blocks.");
    const int64_t block = take_number(rest, "/");
    const auto* const member =
        std::find_if(std::begin(kMembers), std::end(kMembers),
                     [&](const auto& candidate) { return rest == candidate.first; });
    if (lane < 0 || lane >= rows || block < 0 || block >= static_cast<int64_t>(letters_.size()) ||
        member == std::end(kMembers) || entry.tensor.rank() != 3) {
      fail_environment(
          "the checkpoint has a tensor {} {}, which no document under way in {} rows of {} blocks "
          "has; it is of another run",
          entry.name, entry.tensor.shape().text(), rows, letters_.size());
    }
    LaneStates& states = lanes_[static_cast<size_t>(lane)];
    states.resize(letters_.size());
    states[static_cast<size_t>(block)].*(member->second) = Var(entry.tensor.clone());
  }
}

}  // namespace sidewinder
