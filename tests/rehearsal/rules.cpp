#include "rules.h"

#include <ATen/Context.h>
#include <ATen/ops/is_pinned.h>
#include <torch/csrc/autograd/function.h>

#include <atomic>
#include <unordered_set>

namespace rehearsal {
namespace {

using Names = std::unordered_set<std::string>;

std::atomic<int64_t> mode{0};
std::atomic<bool> sorting_is_forbidden{false};

// Their result is a number of the host, or has a shape that depends on values.
const Names kWaiting = {
    "aten::_local_scalar_dense",
    "aten::_unique",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::isin",
    "aten::masked_select",
    "aten::multinomial",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
};

const Names kIndexing = {
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
    "aten::_unsafe_index_put",
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
};

// They take a scalar tensor of the host beside tensors of the device, as pointwise operations do.
const Names kTakingHostScalars = {
    "aten::_fused_adam_",
    "aten::_fused_adamw_",
    "aten::copy_",
    "aten::fill_",
    "aten::masked_fill",
    "aten::masked_fill_",
    "aten::set_",
};

// torch's documentation of `use_deterministic_algorithms` lists them; a CPU has deterministic algorithms for them.
const Names kUnrepeatable = {
    "aten::_adaptive_avg_pool2d_backward",
    "aten::_adaptive_avg_pool3d_backward",
    "aten::_ctc_loss_backward",
    "aten::adaptive_max_pool2d_backward",
    "aten::avg_pool3d_backward",
    "aten::fractional_max_pool2d_backward",
    "aten::fractional_max_pool3d_backward",
    "aten::grid_sampler_2d_backward",
    "aten::grid_sampler_3d_backward",
    "aten::index_reduce",
    "aten::index_reduce_",
    "aten::kthvalue",
    "aten::max_pool3d_with_indices_backward",
    "aten::max_unpool2d",
    "aten::max_unpool3d",
    "aten::nll_loss2d_forward",
    "aten::put",
    "aten::put_",
    "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward",
    "aten::reflection_pad3d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::upsample_bilinear2d_backward",
    "aten::upsample_linear1d_backward",
    "aten::upsample_trilinear3d_backward",
};

const Names kScatters = {
    "aten::scatter",
    "aten::scatter_",
    "aten::scatter_add",
    "aten::scatter_add_",
    "aten::scatter_reduce",
    "aten::scatter_reduce_",
};

// Products of matrices, which cuBLAS computes in one dtype.
const Names kProducts = {
    "aten::_scaled_dot_product_attention_math",
    "aten::addbmm",
    "aten::addmm",
    "aten::addmm_",
    "aten::addmv",
    "aten::addmv_",
    "aten::baddbmm",
    "aten::baddbmm_",
    "aten::bmm",
    "aten::convolution",
    "aten::dot",
    "aten::linear",
    "aten::mm",
    "aten::mv",
    "aten::vdot",
};

bool has(const Names& names, const Operation& operation) {
  return names.count(operation.name) > 0;
}

bool is_pointwise(const Operation& operation) {
  return operation.handle.hasTag(at::Tag::pointwise);
}

void check_devices(const Operation& operation) {
  if (operation.device.empty() || operation.name == "aten::copy_") {
    return;
  }
  const bool takes_scalars = is_pointwise(operation) || has(kTakingHostScalars, operation);
  for (const auto& argument : operation.host) {
    if (argument.tensor.dim() == 0 && takes_scalars) {
      continue;
    }
    if (has(kIndexing, operation) && (argument.name == "indices" || argument.tensor.dim() == 0)) {
      continue;  // copied to the device, which is a wait
    }
    TORCH_CHECK(
        false,
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        "(when checking argument for argument ",
        argument.name,
        " of ",
        operation.name,
        ")");
  }
}

bool is_mask(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
}

// A mask whose entries all become one number of the host is filled without counting them.
bool fills_by_mask(const Operation& operation) {
  const auto accumulate = operation.argument("accumulate");
  const auto values = operation.argument("values");
  if (!accumulate.isBool() || accumulate.toBool() || !values.isTensor()) {
    return false;
  }
  const auto& tensor = values.toTensor();
  return tensor.numel() == 1 && tensor.device().is_cpu();
}

void check_indexing_waits(const Operation& operation) {
  const bool fills = fills_by_mask(operation);
  for (const auto& argument : operation.device) {
    if (argument.name == "indices" && is_mask(argument.tensor) && !fills) {
      wait(operation.name + " with a mask, whose entries are counted");
    }
  }
  for (const auto& argument : operation.host) {
    if (argument.name == "indices" || !fills) {
      wait(operation.name + " with " + argument.name + " of the host, which are copied to the device");
    }
  }
}

// A copy returns at once if it may, and if the host's memory is pinned and needs no rearranging.
void check_copy(const Operation& operation) {
  if (operation.device.size() != 1 || operation.host.size() != 1) {
    return;
  }
  const auto& host = operation.host.front();
  if (host.tensor.numel() == 0) {
    return;
  }
  const std::string direction = host.name == "self" ? "from" : "to";
  const std::string copy = c10::str("a copy ", direction, " the device of ", host.tensor.sizes());
  if (!operation.argument("non_blocking").toBool()) {
    wait(copy + ", which is blocking");
  } else if (!host.tensor.is_pinned()) {
    wait(copy + ", whose memory on the host is not pinned");
  } else if (!host.tensor.is_non_overlapping_and_dense()) {
    wait(copy + ", which is rearranged in memory that is not pinned");
  }
}

void check_waits(const Operation& operation) {
  if (sync_mode() == 0) {
    return;
  }
  if (operation.name == "aten::copy_") {
    check_copy(operation);
  } else if (has(kIndexing, operation)) {
    check_indexing_waits(operation);
  } else if (operation.name == "aten::repeat_interleave" && operation.argument("output_size").isNone()) {
    wait(operation.name + " without its output's size");
  } else if (has(kWaiting, operation)) {
    wait(operation.name);
  }
}

bool has_floating(const std::vector<Argument>& arguments) {
  for (const auto& argument : arguments) {
    if (argument.tensor.is_floating_point()) {
      return true;
    }
  }
  return false;
}

bool is_unrepeatable(const Operation& operation) {
  const auto& name = operation.name;
  if (name == "aten::cumsum" || name == "aten::cumsum_" || name == "aten::histc") {
    return has_floating(operation.device);
  }
  if (name == "aten::median" || name == "aten::nanmedian") {
    return operation.overload.rfind("dim", 0) == 0;  // with indices
  }
  if (name == "aten::bincount") {
    return operation.argument("weights").isTensor();
  }
  if (name == "aten::_embedding_bag_dense_backward") {
    return operation.argument("mode").toInt() == 2;  // the maximum
  }
  if (has(kScatters, operation) && operation.argument("reduce").isString()) {
    const auto reduce = operation.argument("reduce").toStringRef();
    return reduce == "prod" || reduce == "multiply";
  }
  return has(kUnrepeatable, operation);
}

bool in_backward_of(const char* function) {
  const auto node = torch::autograd::get_current_node();
  return node && node->name() == function;
}

// A deterministic scatter of tensors sorts an index for every number. The backward pass of gather has no other way.
bool sorts(const Operation& operation) {
  if (has(kScatters, operation)) {
    return operation.argument("src").isTensor() && !in_backward_of("GatherBackward0");
  }
  const auto accumulate = operation.argument("accumulate");
  const bool puts = has(kIndexing, operation) && accumulate.isBool();
  return puts && !accumulate.toBool() && !fills_by_mask(operation);
}

void check_determinism(const Operation& operation) {
  if (!at::globalContext().deterministicAlgorithms()) {
    return;
  }
  if (is_unrepeatable(operation)) {
    at::globalContext().alertNotDeterministic(operation.name);
  }
  TORCH_CHECK(
      !sorting_is_forbidden || !sorts(operation),
      operation.name,
      " sorts its indices on a card while torch uses deterministic algorithms. Compare, search or gather instead.");
}

void check_dtypes(const Operation& operation) {
  if (!has(kProducts, operation)) {
    return;
  }
  const Argument* first = nullptr;
  for (const auto& argument : operation.device) {
    if (!argument.tensor.is_floating_point() || argument.name == "attn_mask") {
      continue;
    }
    if (!first) {
      first = &argument;
    }
    TORCH_CHECK(
        argument.tensor.scalar_type() == first->tensor.scalar_type(),
        operation.name,
        ": expected ",
        first->name,
        " and ",
        argument.name,
        " to have the same dtype, but got ",
        first->tensor.dtype(),
        " and ",
        argument.tensor.dtype());
  }
}

}  // namespace

c10::IValue Operation::argument(const char* argument_name) const {
  const auto& arguments = handle.schema().arguments();
  const size_t begin = stack.size() - arguments.size();
  for (size_t index = 0; index < arguments.size(); ++index) {
    if (arguments[index].name() == argument_name) {
      return stack[begin + index];
    }
  }
  return {};
}

void set_sync_mode(int64_t new_mode) {
  mode = new_mode;
}

int64_t sync_mode() {
  return mode;
}

void forbid_sorting(bool forbidden) {
  sorting_is_forbidden = forbidden;
}

void wait(const std::string& reason) {
  if (mode == 1) {
    TORCH_WARN("called a synchronizing CUDA operation: ", reason);
  }
  TORCH_CHECK(mode != 2, "called a synchronizing CUDA operation: ", reason);
}

void check(const Operation& operation) {
  check_devices(operation);
  check_dtypes(operation);
  check_determinism(operation);
  check_waits(operation);
}

}  // namespace rehearsal
