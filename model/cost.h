#pragma once
// What a model costs, by formula: FLOPs of the forward pass, bytes carried in generation.
//
// Conventions: a multiply-add is 2 FLOPs; attention is causal and counts visible (query, key)
// pairs, both products; norms, rotations, activations, softmax and embedding lookups count as none;
// the backward pass is twice the forward pass, so that training is three times it; recomputation is
// not included. A run's MFU leaves convolutions and scans out as well
// (HybridModel::training_flops). Formulas: Megatron-LM (Narayanan et al. 2021) for products and
// attention; 7 per state for a scan.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/math/attention_pattern.h"
#include "model/options.h"

namespace sidewinder {

// Letters as in docs/architecture.md: D width, H heads, K key/value heads, P head width.
struct AttentionShape {
  int64_t width, heads, key_value_heads, head_width;

  double projection_flops() const;  // per token: 2D(HP + 2KP) + 2HP·D
  double pair_flops() const;        // per visible pair: 4HP
  int64_t cache_elements() const;   // per key that is kept: 2KP
};

// E inner width, N states, W convolution width, R dt_rank.
struct Mamba1Shape {
  int64_t width, inner, state, conv_width, dt_rank;

  double projection_flops() const;      // per token: 4DE + 2E(R + 2N) + 2RE + 2ED
  double mixing_flops() const;          // convolution and scan, per token: 2WE + 7EN
  int64_t scan_state_elements() const;  // EN
  int64_t conv_state_elements() const;  // (W − 1)E
};

// G groups of B and C. The recurrence is counted; the matrix form of SSD needs more. There is no
// such layer here: the formula serves comparisons.
struct Mamba2Shape {
  int64_t width, inner, state, groups, heads, conv_width;

  double projection_flops() const;      // per token: 2D(2E + 2GN + H) + 2ED
  double mixing_flops() const;          // per token: 2W(E + 2GN) + 7EN
  int64_t scan_state_elements() const;  // EN
};

// Gated: gate, up and down, 6DF per token; else 4DF.
double feed_forward_flops(int64_t width, int64_t hidden, bool gated);
double logits_flops(int64_t width, int64_t vocabulary);  // per token

// One kind of part of a model: all its mixers of one letter, all feed-forwards of one letter, or
// the output layer.
struct PartCost {
  std::string name;    // "w: attention, window 512"
  std::string letter;  // of a mixer's blocks, or empty
  int64_t count = 0;
  // Of all `count` together, forward.
  double token_flops = 0;           // matrix products, per token
  double mixing_flops = 0;          // convolution and scan, per token
  double pair_flops = 0;            // per visible pair
  AttentionPattern pattern;         // of pair_flops
  int64_t cache_elements = 0;       // per kept key, in the type of the activations
  int64_t conv_state_elements = 0;  // f32
  int64_t scan_state_elements = 0;  // f32
};

// Visible pairs of documents (or pieces of documents) of these lengths.
double visible_pairs(AttentionPattern pattern, std::span<const int64_t> lengths);

struct ModelCost {
  std::vector<PartCost> parts;

  // FLOPs of the forward pass over documents of these lengths.
  double forward_flops(std::span<const int64_t> lengths) const;
  // What generation carries after `length` tokens: keys and values, states.
  int64_t cache_bytes(int64_t length, int64_t bytes_per_element) const;
  int64_t state_bytes() const;
};
ModelCost cost_of(const ModelOptions& options);

// Shapes with defaults filled in.
AttentionShape attention_shape(int64_t width, const BlockOptions& options);
Mamba1Shape mamba1_shape(int64_t width, const BlockOptions& options);

}  // namespace sidewinder
