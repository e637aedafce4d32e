#pragma once
// A small checkpoint with every element type and odd shapes, and bytes of files to damage.

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "checkpoints/store.h"
#include "tests/support/random.h"

namespace sidewinder::testing {

inline CheckpointContent sample_content(int64_t step) {
  const auto seed = static_cast<uint64_t>(step);
  CheckpointContent content;
  content.step = step;
  content.tensors = {
      {"embedding.weight", random_normal({37, 11}, Dtype::f32, seed)},
      {"blocks/0/mixer.weight", random_normal({5, 3, 2, 7}, Dtype::bf16, seed + 1)},
      {"optimizer/embedding.weight/moment1", random_normal({1}, Dtype::f64, seed + 2)},
      {"scalar", random_normal({}, Dtype::f32, seed + 3)},
      {"counts", Tensor::from<int32_t>({3}, {-1, 0, static_cast<int32_t>(step)})},
      {"nothing", Tensor::empty({4, 0}, Dtype::bf16)},
  };
  content.state = R"({"seed":18446744073709551615,"loss":2.0000000000000004,"text":"naïve \"x\"",)"
                  R"("b":[1,null,true],"a":{}})";
  return content;
}

inline bool same_content(const CheckpointContent& a, const CheckpointContent& b) {
  if (a.step != b.step || a.state != b.state || a.tensors.size() != b.tensors.size()) return false;
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    if (a.tensors[i].name != b.tensors[i].name) return false;
    const Tensor left = a.tensors[i].tensor.clone();
    const Tensor right = b.tensors[i].tensor.clone();
    if (!(left.shape() == right.shape()) || left.dtype() != right.dtype()) return false;
    if (std::memcmp(left.raw(), right.raw(), left.bytes()) != 0) return false;
  }
  return true;
}

inline std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Changes one byte in place.
inline void flip_bits(const std::string& path, size_t place, int mask) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(place));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(place));
  file.put(static_cast<char>(byte ^ mask));
}

inline void set_file_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace sidewinder::testing
