#pragma once
// TensorBoard's event files: records framed as TFRecord (length, CRC-32C of the length, bytes,
// CRC-32C of the bytes, checksums rotated and offset), each an Event message of
// tensorflow/core/util/event.proto in protocol-buffer encoding. Only what scalars need.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "trainer/metrics.h"

namespace sidewinder::tensorboard {

// CRC-32C (Castagnoli): the checksum of "123456789" is 0xe3069283.
uint32_t crc32c(std::string_view bytes);
std::string record(std::string_view bytes);

// The first record of a file.
std::string version_event(double wall_time);
// Tells TensorBoard that a run (re)starts before `step`: later points of older files are dropped.
std::string start_event(double wall_time, int64_t step);
// Finite and non-finite values are written as they are, in single precision.
std::string scalars_event(double wall_time, int64_t step, std::span<const Metric> metrics);

}  // namespace sidewinder::tensorboard
