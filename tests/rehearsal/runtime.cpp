// What torch looks up about a device type: its guard, its hooks, its random generators; and the controls for Python.
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "generator.h"
#include "memory.h"
#include "rules.h"

namespace rehearsal {
namespace {

c10::Device checked(c10::Device device) {
  TORCH_CHECK(device.index() <= 0, "CUDA error: invalid device ordinal ", int(device.index()), "; there is one device");
  return kDevice;
}

// One device with one stream, whose work is done when a call returns.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::kCUDA;

  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device device) const override { return checked(device); }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device device) const override { checked(device); }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { wait("a stream's end"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { wait("the device's end"); }

  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override { wait("an event"); }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace
}  // namespace rehearsal

namespace at {

// The registry of hooks takes classes of this namespace only.
struct RehearsalHooks final : CUDAHooksInterface {
  explicit RehearsalHooks(CUDAHooksArgs) {}

  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  Device getDeviceFromPtr(void*) const override { return rehearsal::kDevice; }
  void deviceSynchronize(DeviceIndex) const override { rehearsal::wait("the device's end"); }

  bool isPinnedPtr(const void* data) const override { return rehearsal::is_pinned(data); }
  Allocator* getPinnedMemoryAllocator() const override { return rehearsal::pinned_allocator(); }
  Allocator* getCUDADeviceAllocator() const override { return rehearsal::device_allocator(); }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return rehearsal::default_generator(); }
  Generator getNewGenerator(DeviceIndex) const override { return rehearsal::new_generator(); }
};

C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, RehearsalHooks)

}  // namespace at

namespace at::accelerator {

// A build without CUDA compiles the answer "none" into torch. This library is loaded first, so that this one is found.
std::optional<c10::DeviceType> getAccelerator(bool) {
  return c10::kCUDA;
}

}  // namespace at::accelerator

namespace rehearsal {

TORCH_LIBRARY(rehearsal, library) {
  library.def("set_sync_mode(int mode) -> ()", &set_sync_mode);
  library.def("sync_mode() -> int", &sync_mode);
  library.def("forbid_sorting(bool forbidden) -> ()", &forbid_sorting);
  library.def("default_generator() -> Generator?", [] { return default_generator(); });
  library.def("reset_peak() -> ()", &reset_peak);
  library.def("usage() -> int[]", [] { return std::vector<int64_t>{usage().current, usage().peak}; });
}

}  // namespace rehearsal
