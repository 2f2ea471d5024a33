#include "memory.h"

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/ops/_sparse_compressed_tensor_unsafe.h>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

namespace rehearsal {
namespace {

std::atomic<int64_t> current_bytes{0};
std::atomic<int64_t> peak_bytes{0};

void count(int64_t bytes) {
  const int64_t now = current_bytes += bytes;
  int64_t peak = peak_bytes;
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

// Memory of the device's own.
struct Block {
  explicit Block(size_t size) : data(std::malloc(std::max<size_t>(size, 1))), bytes(size) {
    TORCH_CHECK(data, "CUDA out of memory: the host has no ", size, " bytes for the pretend device");
    count(bytes);
  }
  ~Block() {
    count(-bytes);
    std::free(data);
  }
  void* data;
  int64_t bytes;
};

// Memory of a storage that another tensor uses too.
struct Share {
  Share(c10::Storage storage, bool counts) : owner(std::move(storage)), bytes(counts ? owner.nbytes() : 0) {
    count(bytes);
  }
  ~Share() { count(-bytes); }
  c10::Storage owner;
  int64_t bytes;
};

template <typename Owner>
void release(void* owner) {
  delete static_cast<Owner*>(owner);
}

c10::DataPtr share(const c10::Storage& storage, c10::Device device, bool counts) {
  auto* owner = new Share(storage, counts);
  return {owner->owner.mutable_data(), owner, &release<Share>, device};
}

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    auto* block = new Block(size);
    return {block->data, block, &release<Block>, kDevice};
  }
  void copy_data(void* target, const void* source, size_t size) const override { std::memcpy(target, source, size); }
};

// Page-locked memory of the host: ordinary memory whose addresses are remembered.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    const size_t bytes = std::max<size_t>(size, 1);
    void* data = std::malloc(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    ends_[static_cast<char*>(data)] = static_cast<char*>(data) + bytes;
    return {data, data, &release_pinned, c10::Device(c10::kCPU)};
  }
  void copy_data(void* target, const void* source, size_t size) const override { std::memcpy(target, source, size); }

  bool holds(const char* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto next = ends_.upper_bound(data);
    return next != ends_.begin() && data < std::prev(next)->second;
  }

 private:
  static void release_pinned(void* data);

  std::mutex mutex_;
  std::map<const char*, const char*> ends_;  // of each allocation, by its start
};

DeviceAllocator device_memory;
PinnedAllocator pinned_memory;

void PinnedAllocator::release_pinned(void* data) {
  {
    const std::lock_guard<std::mutex> lock(pinned_memory.mutex_);
    pinned_memory.ends_.erase(static_cast<char*>(data));
  }
  std::free(data);
}

at::Tensor dense_tensor(c10::Storage storage, c10::DispatchKey key, const at::Tensor& shape) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), shape.dtype());
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(shape.sizes(), shape.strides(), shape.storage_offset());
  if (shape.dim() == 0) {
    impl->set_wrapped_number(shape.unsafeGetTensorImpl()->is_wrapped_number());
  }
  return tensor;
}

at::Tensor dense_view(const at::Tensor& tensor, c10::Device device, c10::DispatchKey key, bool counts) {
  const auto& storage = tensor.storage();
  c10::Storage shared(
      c10::Storage::use_byte_size_t(),
      storage.nbytes(),
      share(storage, device, counts),
      c10::GetAllocator(device.type()),
      /*resizable=*/true);
  return dense_tensor(std::move(shared), key, tensor);
}

}  // namespace

REGISTER_ALLOCATOR(c10::kCUDA, &device_memory)

Usage usage() {
  return {current_bytes, peak_bytes};
}

void reset_peak() {
  peak_bytes = current_bytes.load();
}

c10::Allocator* device_allocator() {
  return &device_memory;
}

c10::Allocator* pinned_allocator() {
  return &pinned_memory;
}

bool is_pinned(const void* data) {
  return pinned_memory.holds(static_cast<const char*>(data));
}

bool is_on_device(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().is_cuda();
}

at::Tensor host_view(const at::Tensor& tensor) {
  if (!at::sparse_csr::is_sparse_compressed(tensor)) {
    return dense_view(tensor, c10::kCPU, c10::DispatchKey::CPU, false);
  }
  auto* sparse = at::sparse_csr::get_sparse_csr_impl(tensor);
  return at::_sparse_compressed_tensor_unsafe(
      host_view(sparse->compressed_indices()),
      host_view(sparse->plain_indices()),
      host_view(sparse->values()),
      tensor.sizes(),
      tensor.options().device(c10::kCPU));
}

at::Tensor device_view(const at::Tensor& tensor) {
  if (!at::sparse_csr::is_sparse_compressed(tensor)) {
    return dense_view(tensor, kDevice, c10::DispatchKey::CUDA, true);
  }
  auto* sparse = at::sparse_csr::get_sparse_csr_impl(tensor);
  return at::_sparse_compressed_tensor_unsafe(
      device_view(sparse->compressed_indices()),
      device_view(sparse->plain_indices()),
      device_view(sparse->values()),
      tensor.sizes(),
      tensor.options().device(kDevice));
}

at::Tensor view_of(const at::Tensor& base, const at::Tensor& shape) {
  return dense_tensor(c10::Storage(base.storage()), c10::DispatchKey::CUDA, shape);
}

void follow(const at::Tensor& device_tensor, const at::Tensor& host_tensor) {
  if (at::sparse_csr::is_sparse_compressed(device_tensor)) {
    return;
  }
  const auto& host_storage = host_tensor.storage();
  auto* device_storage = device_tensor.storage().unsafeGetStorageImpl();
  if (host_storage.data() != device_storage->data()) {
    device_storage->set_data_ptr_noswap(share(host_storage, kDevice, true));
    device_storage->set_nbytes(host_storage.nbytes());
  }
  if (!host_tensor.sizes().equals(device_tensor.sizes()) || !host_tensor.strides().equals(device_tensor.strides())) {
    device_tensor.unsafeGetTensorImpl()->set_sizes_and_strides(
        host_tensor.sizes(), host_tensor.strides(), host_tensor.storage_offset());
  }
}

}  // namespace rehearsal
