#include "kernels/comm/mesh.h"

#include "kernels/base/check.h"

namespace sidewinder {

Mesh make_mesh(Communicator& world, const MeshSizes& sizes) {
  SIDEWINDER_REQUIRE(sizes.data >= 1 && sizes.context >= 1 && sizes.tensor >= 1 &&
                         sizes.expert >= 1 &&
                         sizes.data * sizes.context * sizes.tensor * sizes.expert == world.size(),
                     "mesh: data {} x context {} x tensor {} x expert {} ranks were asked for but "
                     "there are {}; the product must be equal",
                     sizes.data, sizes.context, sizes.tensor, sizes.expert, world.size());
  // Ranks that differ only along one axis form its group: the color is the rank without that axis.
  const auto along = [&](int size, int stride) {
    const int index = world.rank() / stride % size;
    return std::shared_ptr<Communicator>(world.split(world.rank() - index * stride));
  };
  Mesh mesh;
  mesh.data = along(sizes.data, sizes.context * sizes.tensor * sizes.expert);
  mesh.context = along(sizes.context, sizes.tensor * sizes.expert);
  mesh.tensor = along(sizes.tensor, sizes.expert);
  mesh.expert = along(sizes.expert, 1);
  return mesh;
}

Mesh self_mesh() {
  const auto self = std::shared_ptr<Communicator>(self_communicator());
  return make_mesh(*self, {});
}

}  // namespace sidewinder
