// Ranks as threads of one process. Every collective is: post a tensor, meet, read what the others
// posted, meet again. The second meeting keeps posted tensors unchanged while others read.

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "kernels/base/check.h"
#include "kernels/comm/communicator.h"

namespace sidewinder {
namespace {

// What all groups of one run_ranks share: one lock, and who is still there.
struct World {
  explicit World(int size) : ended(static_cast<size_t>(size), false) {}

  std::mutex mutex;
  std::condition_variable changed;
  bool failed = false;
  std::vector<bool> ended;  // by rank of the world
  std::exception_ptr first_error;

  void end(int rank, std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex);
    ended[static_cast<size_t>(rank)] = true;
    if (error) {
      failed = true;
      if (!first_error) first_error = error;
    }
    changed.notify_all();
  }
};

struct Group;

// What one rank shows the others during a collective.
struct Post {
  const char* operation = "";
  Tensor tensor;   // a handle: a rank may fail and unwind while the others still read
  int number = 0;  // root, distance or color: must it agree is the operation's business
  std::shared_ptr<Group> made;  // by split
};

struct Group {
  Group(std::shared_ptr<World> its_world, std::vector<int> its_members)
      : world(std::move(its_world)), members(std::move(its_members)), posts(members.size()) {}

  std::shared_ptr<World> world;
  std::vector<int> members;  // ranks of the world
  std::vector<Post> posts;   // by rank here
  int waiting = 0;
  uint64_t meetings = 0;

  int size() const { return static_cast<int>(members.size()); }

  // Returns when all members have called it, and throws when one of them never will.
  void meet(int rank, const char* operation) {
    std::unique_lock<std::mutex> lock(world->mutex);
    check(rank, operation);
    if (++waiting == size()) {
      waiting = 0;
      ++meetings;
      world->changed.notify_all();
      return;
    }
    const uint64_t seen = meetings;
    while (meetings == seen) {
      world->changed.wait(lock);
      if (meetings == seen) check(rank, operation);
    }
  }

 private:
  void check(int rank, const char* operation) const {
    if (world->failed) {
      throw Error(ExitCode::peer_lost,
                  fmt::format("rank {} stopped in {}: another rank failed", rank, operation));
    }
    for (int other = 0; other < size(); ++other) {
      if (!world->ended[static_cast<size_t>(members[static_cast<size_t>(other)])]) continue;
      throw Error(ExitCode::peer_lost,
                  fmt::format("rank {} waits in {} but rank {} has ended; all ranks must make the "
                              "same calls",
                              rank, operation, other));
    }
  }
};

size_t bytes_of(const Tensor& tensor, int64_t elements) {
  return static_cast<size_t>(elements) * size_of(tensor.dtype());
}

// Copies `count` elements of a contiguous tensor to another of the same type.
void copy_elements(const Tensor& to, int64_t to_first, const Tensor& from, int64_t from_first,
                   int64_t count) {
  if (count == 0) return;
  std::memcpy(static_cast<char*>(to.raw()) + bytes_of(to, to_first),
              static_cast<const char*>(from.raw()) + bytes_of(from, from_first),
              bytes_of(to, count));
}

// result[i] = the reduction of elements first + i of all tensors, in rank order.
template <typename T>
void reduce(T* result, const std::vector<Post>& posts, int64_t first, int64_t count,
            Reduction reduction) {
  std::copy_n(posts[0].tensor.data<T>() + first, count, result);
  for (size_t rank = 1; rank < posts.size(); ++rank) {
    const T* values = posts[rank].tensor.data<T>() + first;
    for (int64_t i = 0; i < count; ++i) {
      if (reduction == Reduction::sum) {
        result[i] += values[i];
      } else if (values[i] > result[i] || values[i] != values[i]) {  // a NaN wins over numbers
        result[i] = values[i];
      }
    }
  }
}

class ThreadRank final : public Communicator {
 public:
  ThreadRank(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void all_reduce(Tensor& tensor, Reduction reduction) override {
    require_reducible("all_reduce", tensor);
    const int number = static_cast<int>(reduction);
    post("all_reduce", tensor, number);
    require_same_number("reduction");
    require_same_tensors("all_reduce");
    const Tensor result = Tensor::empty(tensor.shape(), tensor.dtype());
    reduce_into(result, 0, tensor.count(), reduction);
    leave("all_reduce");
    tensor.copy_from(result);
  }

  void reduce_scatter(Tensor& shard, const Tensor& whole) override {
    require_reducible("reduce_scatter", whole);
    require_parts("reduce_scatter", whole, shard);
    post("reduce_scatter", whole, 0);
    require_same_tensors("reduce_scatter");
    const Tensor result = Tensor::empty(shard.shape(), shard.dtype());
    reduce_into(result, rank_ * shard.count(), shard.count(), Reduction::sum);
    leave("reduce_scatter");
    shard.copy_from(result);
  }

  void all_gather(Tensor& whole, const Tensor& shard) override {
    require_parts("all_gather", whole, shard);
    post("all_gather", shard, 0);
    require_same_tensors("all_gather");
    for (int other = 0; other < size(); ++other) {
      copy_elements(whole, other * shard.count(), tensor_of(other), 0, shard.count());
    }
    leave("all_gather");
  }

  void all_to_all(Tensor& out, const Tensor& in) override {
    require_contiguous("all_to_all", in);
    require_contiguous("all_to_all", out);
    SIDEWINDER_REQUIRE(
        out.count() == in.count() && out.dtype() == in.dtype() && in.count() % size() == 0,
        "all_to_all: {} {} to {} {} over {} ranks; both must be alike and divide "
        "into equal parts",
        name_of(in.dtype()), in.shape().text(), name_of(out.dtype()), out.shape().text(), size());
    post("all_to_all", in, 0);
    require_same_tensors("all_to_all");
    const int64_t part = in.count() / size();
    for (int other = 0; other < size(); ++other) {
      copy_elements(out, other * part, tensor_of(other), rank_ * part, part);
    }
    leave("all_to_all");
  }

  void shift(Tensor& in, const Tensor& out, int distance) override {
    require_contiguous("shift", in);
    require_contiguous("shift", out);
    post("shift", out, distance);
    require_same_number("distance");
    const int from = ((rank_ - distance) % size() + size()) % size();
    const Tensor& source = tensor_of(from);
    SIDEWINDER_REQUIRE(source.count() == in.count() && source.dtype() == in.dtype(),
                       "shift: rank {} sends {} {} but rank {} receives {} {}", from,
                       name_of(source.dtype()), source.shape().text(), rank_, name_of(in.dtype()),
                       in.shape().text());
    copy_elements(in, 0, source, 0, in.count());
    leave("shift");
  }

  void broadcast(Tensor& tensor, int root) override {
    require_contiguous("broadcast", tensor);
    SIDEWINDER_REQUIRE(root >= 0 && root < size(), "broadcast: there is no rank {} among {}", root,
                       size());
    post("broadcast", tensor, root);
    require_same_number("root");
    require_same_tensors("broadcast");
    if (rank_ != root) copy_elements(tensor, 0, tensor_of(root), 0, tensor.count());
    leave("broadcast");
  }

  void barrier() override {
    post("barrier", {}, 0);
    leave("barrier");
  }

  std::unique_ptr<Communicator> split(int color) override {
    post("split", {}, color);
    std::vector<int> members;  // ranks here
    for (int other = 0; other < size(); ++other) {
      if (post_of(other).number == color) members.push_back(other);
    }
    // The lowest rank makes the group; its member ranks are those of the world.
    std::shared_ptr<Group> made;
    if (members.front() == rank_) {
      std::vector<int> world_ranks;
      for (const int member : members) {
        world_ranks.push_back(group_->members[static_cast<size_t>(member)]);
      }
      made = std::make_shared<Group>(group_->world, std::move(world_ranks));
      group_->posts[static_cast<size_t>(rank_)].made = made;
    }
    group_->meet(rank_, "split");
    made = post_of(members.front()).made;
    leave("split");
    const auto place = std::find(members.begin(), members.end(), rank_);
    return std::make_unique<ThreadRank>(made, static_cast<int>(place - members.begin()));
  }

 private:
  // Shows the others what this rank brings, and returns when all have done so.
  void post(const char* operation, const Tensor& tensor, int number) {
    group_->posts[static_cast<size_t>(rank_)] = {operation, tensor, number, nullptr};
    group_->meet(rank_, operation);
    for (int other = 0; other < size(); ++other) {
      SIDEWINDER_REQUIRE(std::strcmp(post_of(other).operation, operation) == 0,
                         "rank {} called {} while rank {} called {}; all ranks must make the same "
                         "calls in the same order",
                         rank_, operation, other, post_of(other).operation);
    }
  }

  // Returns when all have read what they need.
  void leave(const char* operation) {
    group_->meet(rank_, operation);
    group_->posts[static_cast<size_t>(rank_)] = {};
  }

  const Post& post_of(int rank) const { return group_->posts[static_cast<size_t>(rank)]; }
  const Tensor& tensor_of(int rank) const { return post_of(rank).tensor; }

  void reduce_into(const Tensor& result, int64_t first, int64_t count, Reduction reduction) const {
    if (result.dtype() == Dtype::f64) {
      reduce(result.data<double>(), group_->posts, first, count, reduction);
    } else {
      reduce(result.data<float>(), group_->posts, first, count, reduction);
    }
  }

  void require_contiguous(const char* operation, const Tensor& tensor) const {
    SIDEWINDER_REQUIRE(tensor.defined() && tensor.contiguous(),
                       "{}: tensors must be contiguous, not views of wider rows", operation);
  }

  void require_reducible(const char* operation, const Tensor& tensor) const {
    require_contiguous(operation, tensor);
    SIDEWINDER_REQUIRE(tensor.dtype() == Dtype::f32 || tensor.dtype() == Dtype::f64,
                       "{}: sums are formed in f32 or f64, not {}", operation,
                       name_of(tensor.dtype()));
  }

  void require_parts(const char* operation, const Tensor& whole, const Tensor& shard) const {
    require_contiguous(operation, whole);
    require_contiguous(operation, shard);
    SIDEWINDER_REQUIRE(whole.count() == shard.count() * size() && whole.dtype() == shard.dtype(),
                       "{}: {} {} does not hold {} parts of {} {}", operation,
                       name_of(whole.dtype()), whole.shape().text(), size(), name_of(shard.dtype()),
                       shard.shape().text());
  }

  void require_same_number(const char* what) const {
    for (int other = 0; other < size(); ++other) {
      SIDEWINDER_REQUIRE(post_of(other).number == post_of(rank_).number,
                         "{}: the {} is {} on rank {} but {} on rank {}; it must be the same",
                         post_of(rank_).operation, what, post_of(rank_).number, rank_,
                         post_of(other).number, other);
    }
  }

  void require_same_tensors(const char* operation) const {
    const Tensor& own = tensor_of(rank_);
    for (int other = 0; other < size(); ++other) {
      const Tensor& tensor = tensor_of(other);
      SIDEWINDER_REQUIRE(tensor.shape() == own.shape() && tensor.dtype() == own.dtype(),
                         "{}: rank {} brings {} {} but rank {} brings {} {}; they must be alike",
                         operation, rank_, name_of(own.dtype()), own.shape().text(), other,
                         name_of(tensor.dtype()), tensor.shape().text());
    }
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

void run_ranks(int size, const std::function<void(Communicator&)>& body) {
  SIDEWINDER_REQUIRE(size >= 1, "run_ranks needs at least one rank, not {}", size);
  const auto world = std::make_shared<World>(size);
  std::vector<int> members(static_cast<size_t>(size));
  for (int rank = 0; rank < size; ++rank) members[static_cast<size_t>(rank)] = rank;
  const auto group = std::make_shared<Group>(world, members);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      std::exception_ptr error;
      try {
        ThreadRank communicator(group, rank);
        body(communicator);
      } catch (...) {
        error = std::current_exception();
      }
      world->end(rank, error);
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (world->first_error) std::rethrow_exception(world->first_error);
}

}  // namespace sidewinder
