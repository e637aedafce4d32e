#include "data/cursor.h"

#include <nlohmann/json.hpp>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

std::string name_of(LongDocuments policy) {
  switch (policy) {
    case LongDocuments::continue_reset: return "continue_reset";
    case LongDocuments::continue_positions: return "continue_positions";
    case LongDocuments::continue_state: return "continue_state";
    case LongDocuments::truncate: return "truncate";
    case LongDocuments::drop: return "drop";
    case LongDocuments::defer: break;
  }
  return "defer";
}

json to_json(const StreamIdentity& identity) {
  return {{"data_digest", identity.data_digest},
          {"seed", identity.seed},
          {"packing_buffer", identity.packing_buffer},
          {"long_documents", identity.long_documents},
          {"last_token_has_slot", identity.last_token_has_slot}};
}

json to_json(const DataCounts& counts) {
  return {{"documents", counts.documents},
          {"drawn_tokens", counts.drawn_tokens},
          {"trained_tokens", counts.trained_tokens},
          {"dropped_tokens", counts.dropped_tokens},
          {"padding", counts.padding},
          {"cut_documents", counts.cut_documents}};
}

json to_json(const std::vector<DocumentPiece>& pieces) {
  json list = json::array();
  for (const DocumentPiece& piece : pieces) {
    list.push_back({piece.corpus, piece.document, piece.first, piece.slots});
  }
  return list;
}

std::vector<DocumentPiece> pieces_of(const json& list) {
  std::vector<DocumentPiece> pieces;
  for (const json& entry : list) {
    pieces.push_back({entry.at(0), entry.at(1), entry.at(2), entry.at(3)});
  }
  return pieces;
}

}  // namespace

StreamIdentity identity_of(const std::string& data_digest, uint64_t seed,
                           const DataOptions& options) {
  return {data_digest, seed, options.packing_buffer, name_of(options.long_documents),
          last_token_has_slot(options)};
}

std::string to_json(const StreamPlace& place, const StreamIdentity& identity) {
  json mixture = json::array();
  for (const MixturePlace& entry : place.mixture) {
    mixture.push_back({entry.epoch, entry.position, entry.slots});
  }
  json lanes = json::array();
  for (const PackedRow& left : place.lanes) lanes.push_back(to_json(left));
  const json value = {{"version", kVersion},
                      {"stream", to_json(identity)},
                      {"plan", place.plan},
                      {"mixture", mixture},
                      {"begun", place.begun},
                      {"carry", to_json(place.carry)},
                      {"deferred", to_json(*place.deferred)},
                      {"counts", to_json(place.counts)},
                      {"row_length", place.row_length},
                      {"rows_taken", place.rows_taken},
                      {"lanes", lanes},
                      {"lane", place.lane}};
  return value.dump();
}

StreamPlace place_from_json(const std::string& text, const StreamIdentity& identity,
                            size_t num_corpora) {
  StreamPlace place;
  try {
    const json value = json::parse(text);
    if (value.at("version") != kVersion) {
      fail_environment("the data cursor is of version {}; this program reads version {}",
                       value.at("version").dump(), kVersion);
    }
    const json here = to_json(identity);
    for (const auto& [key, expected] : here.items()) {
      const json found = value.at("stream").at(key);
      SIDEWINDER_REQUIRE(found == expected,
                         "the data cursor was made with {} = {}, but here it is {}; continue with "
                         "the data and data "
                         "options of the run, or start a fresh run",
                         key, found.dump(), expected.dump());
    }
    value.at("plan").get_to(place.plan);
    for (const json& entry : value.at("mixture")) {
      place.mixture.push_back({entry.at(0), entry.at(1), entry.at(2)});
    }
    value.at("begun").get_to(place.begun);
    place.carry = pieces_of(value.at("carry"));
    place.deferred = std::make_shared<const std::vector<DocumentPiece>>(
        pieces_of(value.value("deferred", json::array())));
    const json& counts = value.at("counts");
    counts.at("documents").get_to(place.counts.documents);
    counts.at("trained_tokens").get_to(place.counts.trained_tokens);
    counts.at("dropped_tokens").get_to(place.counts.dropped_tokens);
    counts.at("padding").get_to(place.counts.padding);
    // Cursors from before this count: what was drawn is trained, dropped or carried.
    int64_t drawn = place.counts.trained_tokens + place.counts.dropped_tokens;
    for (const DocumentPiece& piece : place.carry) drawn += piece.slots;
    place.counts.drawn_tokens = counts.value("drawn_tokens", drawn);
    value.at("row_length").get_to(place.row_length);
    value.at("rows_taken").get_to(place.rows_taken);
    // Cursors from before there were lanes have none of these.
    for (const json& left : value.value("lanes", json::array())) {
      place.lanes.push_back(pieces_of(left));
    }
    place.lane = value.value("lane", int64_t{0});
    place.counts.cut_documents = counts.value("cut_documents", int64_t{0});
  } catch (const json::exception& problem) {
    fail_environment(
        "the data cursor cannot be read: {}; the checkpoint is damaged or of another "
        "program",
        problem.what());
  }
  if (place.mixture.size() != num_corpora || place.begun.size() != num_corpora) {
    fail_environment("the data cursor is of {} corpora, but there are {}", place.mixture.size(),
                     num_corpora);
  }
  return place;
}

}  // namespace sidewinder
