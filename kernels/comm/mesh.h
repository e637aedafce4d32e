#pragma once
// The groups that a rank belongs to, one per axis of parallelism. On an axis of size 1 the group is
// the rank itself and collectives return at once, so layers contain no "if distributed".

#include <memory>

#include "kernels/comm/communicator.h"

namespace sidewinder {

struct MeshSizes {
  int data = 1;     // rows of the batch
  int context = 1;  // tokens of a row
  int tensor = 1;   // features of a layer
  int expert = 1;   // experts of a layer
};

struct Mesh {
  std::shared_ptr<Communicator> data, context, tensor, expert;
};

// Ranks are numbered with the last axis (expert) fastest; the product of the sizes must be the size
// of the world. Every rank of the world must call it.
Mesh make_mesh(Communicator& world, const MeshSizes& sizes);

// The mesh of one rank.
Mesh self_mesh();

}  // namespace sidewinder
