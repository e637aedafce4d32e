#pragma once
// A file system of its own that is soon full. Tests skip where none can be mounted.

#include <sys/mount.h>

#include <filesystem>
#include <string>

namespace sidewinder::testing {

class SmallDisk {
 public:
  // `options` of tmpfs, as in "size=600k".
  SmallDisk(std::string path, const std::string& options) : path_(std::move(path)) {
    std::filesystem::create_directory(path_);
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, options.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  bool resize(const std::string& options) const {
    return mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, options.c_str()) == 0;
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

}  // namespace sidewinder::testing
