// Random numbers of the device: a sequence of its own, drawn by a generator of the host.
#pragma once

#include <ATen/core/Generator.h>

namespace rehearsal {

const at::Generator& default_generator();
at::Generator new_generator();

// The generator of the host that draws for a generator of the device.
at::Generator host_generator(const at::Generator& generator);

}  // namespace rehearsal
