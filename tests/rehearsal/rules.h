// The faults that a card would show and the host does not. Each raises where it happens.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <string>
#include <vector>

#include "memory.h"

namespace rehearsal {

// An argument of an operation that runs on the device.
struct Argument {
  std::string name;
  at::Tensor tensor;
};

struct Operation {
  std::string name;  // such as "aten::scatter_"
  std::string overload;
  const c10::OperatorHandle& handle;
  const torch::jit::Stack& stack;  // its arguments are the last values
  std::vector<Argument> device;    // tensors of the device
  std::vector<Argument> host;      // tensors of the host

  c10::IValue argument(const char* argument_name) const;  // None where the operation has no such argument
};

// As torch.cuda.set_sync_debug_mode: 0 ignores host waits, 1 warns, 2 raises.
void set_sync_mode(int64_t mode);
int64_t sync_mode();

// Whether a deterministic scatter, which sorts its indices on a card, raises.
void forbid_sorting(bool forbidden);

// Say that the host waits for the device.
void wait(const std::string& reason);

void check(const Operation& operation);

}  // namespace rehearsal
