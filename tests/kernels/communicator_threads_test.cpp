#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/comm/communicator.h"
#include "kernels/comm/mesh.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::random_normal;
using testing::same_bits;

// Calls `body` on 1 to 4 ranks, and on the group of one.
void on_all_sizes(const std::function<void(Communicator&)>& body) {
  body(*self_communicator());
  for (int size = 1; size <= 4; ++size) run_ranks(size, body);
}

// Of rank `rank`, from 0.
Tensor part_of(int rank, Shape shape, Dtype dtype) {
  return random_normal(shape, dtype, static_cast<uint64_t>(rank) + 1);
}

Tensor sum_in_rank_order(int size, Shape shape, Dtype dtype) {
  Tensor sum = part_of(0, shape, dtype);
  for (int rank = 1; rank < size; ++rank) {
    const Tensor part = part_of(rank, shape, dtype);
    for (int64_t i = 0; i < sum.count(); ++i) {
      if (dtype == Dtype::f32) {
        sum.data<float>()[i] += part.data<float>()[i];
      } else {
        sum.data<double>()[i] += part.data<double>()[i];
      }
    }
  }
  return sum;
}

std::string error_of(int size, const std::function<void(Communicator&)>& body) {
  try {
    run_ranks(size, body);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Communicator, AllReduceSumsInRankOrder) {
  on_all_sizes([](Communicator& c) {
    for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
      Tensor tensor = part_of(c.rank(), {3, 7}, dtype);
      c.all_reduce(tensor, Reduction::sum);
      EXPECT_TRUE(same_bits(tensor, sum_in_rank_order(c.size(), {3, 7}, dtype)));
    }
  });
}

TEST(Communicator, AllReduceTakesTheLargest) {
  on_all_sizes([](Communicator& c) {
    Tensor tensor =
        Tensor::from<float>({2}, {static_cast<float>(c.rank()), -static_cast<float>(c.rank())});
    c.all_reduce(tensor, Reduction::max);
    EXPECT_EQ(tensor.at(0), c.size() - 1);
    EXPECT_EQ(tensor.at(1), 0);
  });
}

TEST(Communicator, ANotANumberIsTheLargestOnEveryRank) {
  for (int bad = 0; bad < 3; ++bad) {
    run_ranks(3, [&](Communicator& c) {
      const float nan = std::numeric_limits<float>::quiet_NaN();
      Tensor tensor = Tensor::from<float>({1}, {c.rank() == bad ? nan : 1.0F});
      c.all_reduce(tensor, Reduction::max);
      EXPECT_TRUE(std::isnan(tensor.at(0)));
    });
  }
}

TEST(Communicator, ReduceScatterGivesEachRankItsPartOfTheSum) {
  on_all_sizes([](Communicator& c) {
    const Shape whole_shape = {static_cast<int64_t>(c.size()) * 5};
    const Tensor whole = part_of(c.rank(), whole_shape, Dtype::f32);
    Tensor shard = Tensor::empty({5}, Dtype::f32);
    c.reduce_scatter(shard, whole);
    const Tensor sum = sum_in_rank_order(c.size(), whole_shape, Dtype::f32);
    EXPECT_TRUE(same_bits(shard, sum.slice_rows(c.rank() * 5, c.rank() * 5 + 5)));
  });
}

TEST(Communicator, AllGatherPutsShardsInRankOrder) {
  on_all_sizes([](Communicator& c) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
      Tensor whole = Tensor::empty({static_cast<int64_t>(c.size()) * 2, 3}, dtype);
      c.all_gather(whole, part_of(c.rank(), {2, 3}, dtype));
      for (int rank = 0; rank < c.size(); ++rank) {
        EXPECT_TRUE(
            same_bits(whole.slice_rows(rank * 2, rank * 2 + 2), part_of(rank, {2, 3}, dtype)));
      }
    }
  });
}

TEST(Communicator, AllToAllTransposesParts) {
  on_all_sizes([](Communicator& c) {
    const int64_t size = c.size();
    Tensor in = Tensor::empty({size, 2}, Dtype::f32);
    for (int64_t i = 0; i < in.count(); ++i) {
      in.data<float>()[i] = static_cast<float>(100 * c.rank() + i);
    }
    Tensor out = Tensor::empty({size, 2}, Dtype::f32);
    c.all_to_all(out, in);
    for (int64_t rank = 0; rank < size; ++rank) {
      for (int64_t i = 0; i < 2; ++i) {
        EXPECT_EQ(out.at(2 * rank + i), static_cast<double>(100 * rank + 2 * c.rank() + i));
      }
    }
  });
}

TEST(Communicator, ShiftGoesAround) {
  on_all_sizes([](Communicator& c) {
    for (const int distance : {-5, -1, 0, 1, 2, 7}) {
      const Tensor out = Tensor::from<float>({1}, {static_cast<float>(c.rank())});
      Tensor in = Tensor::empty({1}, Dtype::f32);
      c.shift(in, out, distance);
      EXPECT_EQ((static_cast<int>(in.at(0)) + distance - c.rank()) % c.size(), 0);
    }
  });
}

TEST(Communicator, BroadcastCopiesTheRoot) {
  on_all_sizes([](Communicator& c) {
    for (int root = 0; root < c.size(); ++root) {
      Tensor tensor = part_of(c.rank(), {4}, Dtype::bf16);
      c.broadcast(tensor, root);
      EXPECT_TRUE(same_bits(tensor, part_of(root, {4}, Dtype::bf16)));
    }
  });
}

TEST(Communicator, NobodyLeavesABarrierBeforeAllHaveCome) {
  for (int size = 1; size <= 4; ++size) {
    std::atomic<int> arrived{0};
    run_ranks(size, [&](Communicator& c) {
      for (int round = 1; round <= 20; ++round) {
        ++arrived;
        c.barrier();
        EXPECT_GE(arrived.load(), round * c.size());
        c.barrier();
      }
    });
  }
}

TEST(Communicator, SplitMakesGroupsOfEqualColor) {
  run_ranks(4, [](Communicator& c) {
    const std::unique_ptr<Communicator> half = c.split(c.rank() % 2);
    EXPECT_EQ(half->size(), 2);
    EXPECT_EQ(half->rank(), c.rank() / 2);
    Tensor tensor = Tensor::from<float>({1}, {static_cast<float>(c.rank())});
    half->all_reduce(tensor, Reduction::sum);
    EXPECT_EQ(tensor.at(0), c.rank() % 2 == 0 ? 2 : 4);
    const std::unique_ptr<Communicator> alone = half->split(c.rank());
    EXPECT_EQ(alone->size(), 1);
    alone->barrier();
  });
}

TEST(Communicator, CallsOnDifferentGroupsMayInterleave) {
  run_ranks(4, [](Communicator& c) {
    const std::unique_ptr<Communicator> row = c.split(c.rank() / 2);
    const std::unique_ptr<Communicator> column = c.split(c.rank() % 2);
    for (int round = 0; round < 50; ++round) {
      Tensor tensor = Tensor::from<double>({1}, {static_cast<double>(c.rank() + round)});
      row->all_reduce(tensor, Reduction::sum);
      column->all_reduce(tensor, Reduction::sum);
      EXPECT_EQ(tensor.at(0), 6 + 4 * round);
    }
  });
}

TEST(Communicator, MeshGroupsRanksAlongItsAxes) {
  run_ranks(4, [](Communicator& c) {
    const Mesh mesh = make_mesh(c, {.data = 2, .tensor = 2});
    EXPECT_EQ(mesh.data->size(), 2);
    EXPECT_EQ(mesh.data->rank(), c.rank() / 2);
    EXPECT_EQ(mesh.tensor->rank(), c.rank() % 2);
    EXPECT_EQ(mesh.context->size(), 1);
    EXPECT_EQ(mesh.expert->size(), 1);
    Tensor tensor = Tensor::from<double>({1}, {static_cast<double>(c.rank())});
    mesh.tensor->all_reduce(tensor, Reduction::sum);
    EXPECT_EQ(tensor.at(0), c.rank() < 2 ? 1 : 5);
  });
  EXPECT_EQ(self_mesh().data->size(), 1);
  EXPECT_EQ(error_of(2, [](Communicator& c) { make_mesh(c, {.data = 3}); }),
            "mesh: data 3 x context 1 x tensor 1 x expert 1 ranks were asked for but there are 2; "
            "the product must be equal");
}

TEST(Communicator, AFailingRankWakesTheOthers) {
  std::atomic<int> woken{0};
  const std::string message = error_of(4, [&](Communicator& c) {
    const std::unique_ptr<Communicator> pair = c.split(c.rank() / 2);
    if (c.rank() == 3) fail_environment("disk full on rank 3");
    try {
      // Rank 2 waits for rank 3 itself, ranks 0 and 1 in another group.
      for (;;) pair->barrier();
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::peer_lost);
      ++woken;
      throw;
    }
  });
  EXPECT_EQ(message, "disk full on rank 3");
  EXPECT_EQ(woken, 3);
}

TEST(Communicator, ARankThatEndsEarlyIsNamed) {
  EXPECT_EQ(error_of(2,
                     [](Communicator& c) {
                       if (c.rank() == 0) c.barrier();
                     }),
            "rank 0 waits in barrier but rank 1 has ended; all ranks must make the same calls");
}

TEST(Communicator, DifferentCallsAreNamed) {
  const std::string message = error_of(2, [](Communicator& c) {
    Tensor tensor = Tensor::zeros({1}, Dtype::f32);
    if (c.rank() == 0) {
      c.barrier();
    } else {
      c.broadcast(tensor, 0);
    }
  });
  // Whichever rank notices first.
  EXPECT_TRUE(message ==
                  "rank 0 called barrier while rank 1 called broadcast; all ranks must make "
                  "the same calls in the same order" ||
              message ==
                  "rank 1 called broadcast while rank 0 called barrier; all ranks must make "
                  "the same calls in the same order")
      << message;
}

TEST(Communicator, DifferentShapesAreNamed) {
  const std::string message = error_of(2, [](Communicator& c) {
    Tensor tensor = Tensor::zeros({c.rank() + 1}, Dtype::f32);
    c.all_reduce(tensor, Reduction::sum);
  });
  EXPECT_NE(message.find("f32 [1]"), std::string::npos) << message;
  EXPECT_NE(message.find("f32 [2]"), std::string::npos) << message;
}

TEST(Communicator, RefusesToSumInBf16) {
  EXPECT_EQ(error_of(1,
                     [](Communicator& c) {
                       Tensor tensor = Tensor::zeros({1}, Dtype::bf16);
                       c.all_reduce(tensor, Reduction::sum);
                     }),
            "all_reduce: sums are formed in f32 or f64, not bf16");
}

}  // namespace
}  // namespace sidewinder
