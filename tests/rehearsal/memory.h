// Where tensors of the pretend device live: in the host's memory, under a device of their own.
#pragma once

#include <ATen/core/Tensor.h>
#include <cstdint>

namespace rehearsal {

inline const c10::Device kDevice{c10::kCUDA, 0};

struct Usage {
  int64_t current;
  int64_t peak;
};

// Bytes that tensors of the device hold.
Usage usage();
void reset_peak();

c10::Allocator* device_allocator();
c10::Allocator* pinned_allocator();
bool is_pinned(const void* data);

bool is_on_device(const at::Tensor& tensor);

// A tensor of the host over the bytes of a tensor of the device. Writing to either changes both.
at::Tensor host_view(const at::Tensor& tensor);

// A tensor of the device over the bytes of a tensor that the host computed. The bytes count as the device's.
at::Tensor device_view(const at::Tensor& tensor);

// A view of `base`, a tensor of the device, with the sizes, strides and dtype of `shape`.
at::Tensor view_of(const at::Tensor& base, const at::Tensor& shape);

// Give a tensor of the device the sizes of the host's tensor, and its bytes where an `out=` was allocated anew.
void follow(const at::Tensor& device_tensor, const at::Tensor& host_tensor);

}  // namespace rehearsal
