// Functions that mix tokens: embedding lookup, rotation, attention, convolution, scan.
#include <cmath>

#include "kernels/base/thread_pool.h"
#include "kernels/ops/causal_conv.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/selective_scan.h"
#include "model/autograd/functions.h"

namespace sidewinder {

Var embedding(const Tensor& ids, const Var& table, Dtype dtype) {
  return Tape::record(
      "embedding", {table}, ops::embedding(ids, table.value(), dtype),
      [ids](Gradients& io) { ops::embedding_backward(io.sum(0), io.output(), ids); });
}

namespace {

Var record_rope(const Var& x, Tensor y, const Tensor& position, const RopeTable& table) {
  return Tape::record("rope", {x}, std::move(y), [position, table](Gradients& io) {
    Tensor gradient = io.output();
    ops::rope_in_place(gradient, position, table, /*inverse=*/true);
    io.add(0, std::move(gradient));
  });
}

}  // namespace

Var rope(const Var& x, const Tensor& position, const RopeTable& table) {
  return record_rope(x, ops::rope(x.value(), position, table), position, table);
}

Var rope_in_place(const Var& x, const Tensor& position, const RopeTable& table) {
  Tensor y = x.value();
  ops::rope_in_place(y, position, table);
  return record_rope(x, std::move(y), position, table);
}

Var attention(const Var& q, const Var& k, const Var& v, const SequenceLayout& layout,
              AttentionPattern pattern, double scale, const Tensor& slopes) {
  auto [out, lse] = ops::attention(q.value(), k.value(), v.value(), layout, pattern, scale, slopes);
  return Tape::record("attention", {q, k, v}, out,
                      [q = q.value(), k = k.value(), v = v.value(), out = out, lse = lse, layout,
                       pattern, scale, slopes](Gradients& io) {
                        ops::AttentionGradients gradients = ops::attention_backward(
                            io.output(), q, k, v, out, lse, layout, pattern, scale, slopes);
                        io.add(0, std::move(gradients.dq));
                        io.add(1, std::move(gradients.dk));
                        io.add(2, std::move(gradients.dv));
                      });
}

Var gather_rows(const std::vector<Var>& sources, std::vector<RowSpan> spans, int64_t rows) {
  const Tensor& first = sources.front().value();
  const auto with_rows = [](const Shape& shape, int64_t count) {
    return shape.rank() == 2 ? Shape({count, shape[1]}) : Shape({count, shape[1], shape[2]});
  };
  Tensor y = Tensor::zeros(with_rows(first.shape(), rows), first.dtype());
  for (const RowSpan& span : spans) {
    const Tensor& x = sources[span.source].value();
    y.slice_rows(span.to, span.to + span.count)
        .copy_from(x.slice_rows(span.from, span.from + span.count));
  }
  return Tape::record("gather_rows", sources, y,
                      [sources, spans = std::move(spans)](Gradients& io) {
                        for (size_t i = 0; i < sources.size(); ++i) {
                          const int input = static_cast<int>(i);
                          if (!io.wanted(input)) continue;
                          const Tensor& dy = io.output();
                          Tensor dx = Tensor::zeros(sources[i].value().shape(), dy.dtype());
                          for (const RowSpan& span : spans) {
                            if (span.source != i) continue;
                            dx.slice_rows(span.from, span.from + span.count)
                                .copy_from(dy.slice_rows(span.to, span.to + span.count));
                          }
                          io.add(input, std::move(dx));
                        }
                      });
}

namespace {

Tensor initial_of(const CarriedState* state) {
  return state != nullptr ? state->initial.value() : Tensor();
}

// The gradient of output 0, zeros if only the final state has one.
Tensor gradient_or_zeros(const Gradients& io, const Tensor& like) {
  return io.output().defined() ? io.output() : Tensor::zeros(like.shape(), like.dtype());
}

// Records a function of `inputs` and a carried state, with its final state as a second output.
Var record_carried(const char* name, std::vector<Var> inputs, CarriedState* state, Tensor y,
                   Tensor final_state, Tape::Backward backward) {
  inputs.push_back(state != nullptr ? state->initial : Var());
  std::vector<Tensor> outputs = {std::move(y)};
  if (final_state.defined()) outputs.push_back(std::move(final_state));
  std::vector<Var> results = Tape::record(name, inputs, std::move(outputs), std::move(backward));
  if (results.size() > 1) state->final_state = results[1];
  return results[0];
}

}  // namespace

Var causal_conv(const Var& x, const Var& weight, const Var& bias, const SequenceLayout& layout,
                CarriedState* state) {
  const Tensor initial = initial_of(state);
  auto [y, final_state] = ops::causal_conv(x.value(), weight.value(), bias.value(), layout, initial,
                                           state != nullptr && state->want_final);
  const bool has_final = final_state.defined();
  return record_carried("causal_conv", {x, weight, bias}, state, y, final_state,
                        [x = x.value(), weight = weight.value(), bias = bias.value(), layout,
                         initial, has_final](Gradients& io) {
                          ops::CausalConvGradients gradients = ops::causal_conv_backward(
                              io.sum(1), io.sum(2), gradient_or_zeros(io, x), x, weight, bias,
                              layout, initial, has_final ? io.output(1) : Tensor());
                          io.add(0, std::move(gradients.dx));
                          if (initial.defined()) io.add(3, std::move(gradients.dinitial));
                        });
}

namespace {

constexpr int64_t kGrain = 1 << 13;  // elements per work item

// −exp(a_log), element by element.
Tensor decay_rates(const Tensor& a_log) {
  Tensor a = Tensor::empty(a_log.shape(), a_log.dtype());
  parallel_ranges(a.count(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (a.dtype() == Dtype::f64) {
        a.data<double>()[i] = -std::exp(a_log.data<double>()[i]);
      } else {
        a.data<float>()[i] = -std::exp(a_log.data<float>()[i]);
      }
    }
  });
  return a;
}

void add_product(Tensor& sum, const Tensor& x, const Tensor& y) {
  parallel_ranges(sum.count(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (sum.dtype() == Dtype::f64) {
        sum.data<double>()[i] += x.data<double>()[i] * y.data<double>()[i];
      } else {
        sum.data<float>()[i] += x.data<float>()[i] * y.data<float>()[i];
      }
    }
  });
}

}  // namespace

Var selective_scan(const ScanVars& in, const SequenceLayout& layout, CarriedState* state) {
  const SelectiveScanInputs inputs{
      .u = in.u.value(),
      .delta = in.delta.value(),
      .a = decay_rates(in.a_log.value()),
      .b = in.b.value(),
      .c = in.c.value(),
      .d = in.d.value(),
      .z = in.z.value(),
      .delta_bias = in.delta_bias.value(),
      .initial = initial_of(state),
  };
  ops::SelectiveScanOut result = ops::selective_scan(
      inputs, layout, /*want_chunk_states=*/in.u.on_tape(), state != nullptr && state->want_final);
  const bool has_final = result.final_state.defined();
  return record_carried(
      "selective_scan", {in.u, in.delta, in.a_log, in.b, in.c, in.d, in.z, in.delta_bias}, state,
      result.out, result.final_state,
      [inputs, layout, chunk_states = result.chunk_states, has_final](Gradients& io) {
        Tensor da = Tensor::zeros(inputs.a.shape(), inputs.a.dtype());
        SelectiveScanGradients gradients = ops::selective_scan_backward(
            da, io.sum(5), io.sum(7), gradient_or_zeros(io, inputs.u), inputs, chunk_states, layout,
            has_final ? io.output(1) : Tensor());
        add_product(io.sum(2), da, inputs.a);
        io.add(0, std::move(gradients.du));
        io.add(1, std::move(gradients.ddelta));
        io.add(3, std::move(gradients.db));
        io.add(4, std::move(gradients.dc));
        if (inputs.z.defined()) io.add(6, std::move(gradients.dz));
        if (inputs.initial.defined()) io.add(8, std::move(gradients.dinitial));
      });
}

}  // namespace sidewinder
