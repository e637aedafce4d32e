#pragma once
// Rotary positions in a config.json: `rope_theta` and `rope_scaling`, or, from transformers 5 on,
// `rope_parameters` with the base inside, for all layers or by layer type. Both spellings read as
// the same options.

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <string>

#include "checkpoints/huggingface/config.h"
#include "kernels/math/rope.h"

namespace sidewinder {

// By layer type ("full_attention", "sliding_attention"); one entry "" if all layers are alike.
using RopeByLayerType = std::map<std::string, RopeOptions>;

// Reads the keys of rotary positions. `context` is max_position_embeddings: the original context
// where none is given. Types: default, linear, dynamic, yarn, longrope (also as "su") and llama3.
// Refuses, with name and value: unknown types and keys, missing and impossible values, spellings
// that contradict each other, and factors that do not lead from the original context to `context`
// (not asked of dynamic and llama3) unless `allow_mismatch`.
RopeByLayerType read_rope_config(ConfigReader& reader, int64_t head_width, int64_t context,
                                 bool allow_mismatch = false);

// Whether the factor of these options does not lead from their original context to `context`: what
// it is times, what it leads to, and what it does not; empty if it does, or need not. Published
// configs are often so, and transformers (4.56 on) warns and takes the factor as it is given.
std::string rope_mismatch(const RopeOptions& rope, int64_t context);

// Changes the keys of `config` to say `rope`, in the spelling that it has (the older one if it has
// none), and leaves them alone if they say so already. ntk becomes a changed base, and ntk_by_parts
// yarn without an attention factor: the same functions, which read back so. Error{user} for what
// transformers cannot say: a ramp by rotations, interleaved pairs, dynamic from another original
// context.
void write_rope_config(const RopeOptions& rope, int64_t context, nlohmann::ordered_json& config);

}  // namespace sidewinder
