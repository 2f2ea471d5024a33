// Every operation on tensors of the device: checked by the rules, computed by the host on the same bytes.
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include <unordered_set>

#include "generator.h"
#include "memory.h"
#include "rules.h"

namespace rehearsal {
namespace {

using at::Tensor;
using torch::jit::Stack;

// Replace the tensors in an argument or a result by what `replace` returns for them.
template <typename Replace>
void replace_tensors(c10::IValue& value, Replace replace) {
  if (value.isTensor()) {
    value = replace(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<Tensor> tensors;
    for (const Tensor& tensor : value.toTensorVector()) {
      tensors.push_back(replace(tensor));
    }
    value = tensors;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> tensors;
    for (const std::optional<Tensor> tensor : value.toOptionalTensorList()) {
      tensors.push_back(tensor ? std::make_optional(replace(*tensor)) : tensor);
    }
    value = tensors;
  }
}

// They move float16 numbers without computing; a view must stay a view of the same bytes.
const std::unordered_set<std::string> kMoving = {
    "aten::cat",
    "aten::copy_",
    "aten::embedding",
    "aten::fill_",
    "aten::gather",
    "aten::index",
    "aten::index_put_",
    "aten::index_select",
    "aten::masked_fill_",
    "aten::where",
    "aten::zero_",
};

bool returns_view(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns()) {
    if (result.alias_info() && !result.alias_info()->isWrite()) {
      return true;
    }
  }
  return false;
}

// A tensor of the device, and the tensor of the host that computes in its place.
struct Pair {
  Tensor device;
  Tensor host;
  Tensor widened;  // float32 numbers of a float16 tensor, else undefined
  bool written;

  const Tensor& computing() const { return widened.defined() ? widened : host; }
};

// An operation on its way through the host.
class Call {
 public:
  Call(const c10::OperatorHandle& handle, Stack& stack)
      : handle_(handle),
        schema_(handle.schema()),
        stack_(stack),
        operation_{schema_.name(), schema_.overload_name(), handle, stack, {}, {}},
        computes_(!kMoving.count(schema_.name()) && !returns_view(schema_)) {}

  void run() {
    collect();
    check(operation_);
    const bool rounds = rounds_results();
    lower();
    handle_.callBoxed(&stack_);
    for (const auto& pair : pairs_) {
      write_back(pair);
    }
    for (size_t index = 0; index < schema_.returns().size(); ++index) {
      replace_tensors(results()[index], [&](const Tensor& tensor) { return raised(tensor, rounds); });
    }
  }

 private:
  c10::IValue* arguments() { return stack_.data() + stack_.size() - schema_.arguments().size(); }
  c10::IValue* results() { return stack_.data() + stack_.size() - schema_.returns().size(); }

  void collect() {
    for (size_t index = 0; index < schema_.arguments().size(); ++index) {
      const auto& argument = schema_.arguments()[index];
      c10::IValue value = arguments()[index];
      replace_tensors(value, [&](const Tensor& tensor) {
        if (tensor.defined()) {
          auto& side = is_on_device(tensor) ? operation_.device : operation_.host;
          side.push_back({argument.name(), tensor});
        }
        return tensor;
      });
    }
  }

  void lower() {
    for (size_t index = 0; index < schema_.arguments().size(); ++index) {
      const auto& argument = schema_.arguments()[index];
      const bool written = argument.alias_info() && argument.alias_info()->isWrite();
      auto& value = arguments()[index];
      replace_tensors(value, [&](const Tensor& tensor) { return lowered(tensor, written); });
      if (value.isDevice() && value.toDevice().is_cuda()) {
        TORCH_CHECK(value.toDevice().index() <= 0, "CUDA error: invalid device ordinal");
        value = c10::Device(c10::kCPU);
      }
      if (argument.type()->isSubtypeOf(*c10::OptionalType::create(c10::GeneratorType::get()))) {
        value = lowered_generator(value);
      }
      if (argument.name() == "half_to_float") {
        value = false;  // the argument is float32 already
      }
    }
  }

  Tensor lowered(const Tensor& tensor, bool written) {
    if (!is_on_device(tensor)) {
      return tensor;
    }
    for (auto& pair : pairs_) {
      if (pair.device.is_same(tensor)) {
        pair.written |= written;
        return pair.computing();
      }
    }
    Pair pair{tensor, host_view(tensor), {}, written};
    if (computes_ && tensor.scalar_type() == at::kHalf) {
      pair.widened = pair.host.to(at::kFloat);
    }
    pairs_.push_back(pair);
    return pair.computing();
  }

  c10::IValue lowered_generator(const c10::IValue& value) {
    if (!value.isGenerator() || !value.toGenerator().defined()) {
      return host_generator(default_generator());
    }
    const bool draws_on_host = operation_.device.empty() && !operation_.host.empty();
    const auto expected = draws_on_host ? c10::kCPU : c10::kCUDA;
    const auto generator = value.toGenerator();
    TORCH_CHECK(
        generator.device().type() == expected,
        "Expected a '",
        expected,
        "' device type for generator but found '",
        generator.device().type(),
        "' (",
        schema_.name(),
        ")");
    return host_generator(generator);
  }

  // Return whether torch gives results in float16 for these arguments. They are computed in float32 here.
  bool rounds_results() const {
    if (!computes_) {
      return false;
    }
    const auto dtype = operation_.argument("dtype");
    const auto half_to_float = operation_.argument("half_to_float");
    if (!dtype.isNone() || (half_to_float.isBool() && half_to_float.toBool())) {
      return false;
    }
    at::native::ResultTypeState state{};
    for (const auto* side : {&operation_.device, &operation_.host}) {
      for (const auto& argument : *side) {
        state = at::native::update_result_type_state(argument.tensor, state);
      }
    }
    return at::native::result_type(state) == at::kHalf;
  }

  void write_back(const Pair& pair) {
    if (!pair.written) {
      return;
    }
    if (pair.widened.defined()) {
      if (!pair.host.sizes().equals(pair.widened.sizes())) {
        pair.host.resize_(pair.widened.sizes());
      }
      pair.host.copy_(pair.widened);
    }
    follow(pair.device, pair.host);
  }

  Tensor raised(const Tensor& tensor, bool rounds) {
    if (!tensor.defined() || is_on_device(tensor)) {
      return tensor;
    }
    for (const auto& pair : pairs_) {
      if (pair.computing().is_same(tensor)) {
        return pair.device;
      }
    }
    for (const auto& argument : operation_.host) {
      if (argument.tensor.is_same(tensor)) {
        return tensor;
      }
    }
    for (const auto& pair : pairs_) {
      if (pair.host.has_storage() && tensor.has_storage() && tensor.is_alias_of(pair.host)) {
        return view_of(pair.device, tensor);
      }
    }
    if (rounds && tensor.scalar_type() == at::kFloat) {
      return device_view(tensor.to(at::kHalf));
    }
    return device_view(tensor);
  }

  const c10::OperatorHandle& handle_;
  const c10::FunctionSchema& schema_;
  Stack& stack_;
  Operation operation_;
  const bool computes_;
  std::vector<Pair> pairs_;
};

void run_on_host(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView without_gradients;
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  Call(handle, *stack).run();
}

Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool> pinned,
    std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!device || device->index() <= 0, "CUDA error: invalid device ordinal");
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  return at::detail::empty_generic(size, device_allocator(), keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool> pinned) {
  TORCH_CHECK(!device || device->index() <= 0, "CUDA error: invalid device ordinal");
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, stride, device_allocator(), keys, c10::dtype_or_default(dtype));
}

// The host's own kernel draws from the host's default generator.
std::tuple<Tensor, Tensor> dropout(const Tensor& input, double p, std::optional<bool> train) {
  if (!train.value_or(true)) {
    return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  }
  const double scale = p < 1 ? 1 / (1 - p) : 0;
  auto kept = at::empty_like(input, input.options().dtype(at::kBool)).bernoulli_(1 - p);
  return {input.mul(kept).mul(scale), kept};
}

void record_stream(Tensor&, at::Stream) {}

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(_, SparseCsrCUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  // torch's own kernels that read no numbers suit every device.
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("resize_", TORCH_FN(at::native::resize_));
  library.impl("set_", TORCH_FN(at::native::set_cpu_));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_cpu_));
  library.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("view", TORCH_FN(at::native::view));

  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("native_dropout", &dropout);
  library.impl("record_stream", &record_stream);

  // torch has a kernel for every device here, which would look for one of CUDA's.
  for (const char* name : {"copy_", "fill_.Scalar", "fill_.Tensor", "zero_"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  }
}

TORCH_LIBRARY_IMPL(aten, SparseCsrCUDA, library) {
  // Else a kernel for every device allocates a sparse result before the product is known to be dense.
  for (const char* name : {"addmm", "mm"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  }
}

}  // namespace rehearsal
