"""A backbone and the modules that an objective adds, as the training loop takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from retrobench.errors import RetrobenchError
from retrobench.model.backbones import Backbone
from retrobench.model.internals import initialise
from retrobench.objective import Step

__all__ = ["Pretraining"]


class Pretraining(nn.Module):
    """A backbone with the modules that an objective adds; `step(model, progress, **batch)` is the forward.

    `couple(model, progress, vectors)` and `begin(model, progress)` belong to an objective with `couples_batch`.

    Modules given by name are trained from the weights that they have. Those in `fresh` are first drawn anew, as the
    backbone's family draws. Those in `kept` are never trained, stay in evaluation mode and are in no checkpoint, since
    `wrap` makes them again. Each is an attribute of the model. Parameters in `added`, those of an earlier stage,
    replace the new ones of equal name.
    """

    def __init__(
        self,
        backbone: Backbone,
        step: Callable[..., Step],
        *,
        couple: Callable[..., Step] | None = None,
        begin: Callable[..., None] | None = None,
        fresh: Mapping[str, nn.Module] | None = None,
        kept: Mapping[str, nn.Module] | None = None,
        added: Mapping[str, Tensor] | None = None,
        **trained: nn.Module,
    ) -> None:
        """RetrobenchError for a name that stands twice, copied weights in `fresh`, and parameters of another shape."""
        super().__init__()
        self.backbone = backbone
        self._step = step
        self._couple = couple
        self._begin = begin
        self._kept = tuple(kept or {})
        for name, module in (*(fresh or {}).items(), *trained.items(), *(kept or {}).items()):
            if hasattr(self, name):
                raise RetrobenchError(f"Pretraining() has two modules {name!r}. Give each a name of its own.")
            self.add_module(name, module)
        for name, module in (fresh or {}).items():
            if _holds_copies(module, backbone):
                raise RetrobenchError(f"{name!r} holds copied weights, which `fresh` would draw anew. Give it by name.")
            initialise(backbone.lm, module)
        for module in (kept or {}).values():
            module.requires_grad_(False).eval()
        self._replace_parameters(added or {})
        self.register_state_dict_post_hook(_drop_kept)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_restore_kept)  # type: ignore[no-untyped-call]

    def forward(self, progress: float, **batch: Tensor) -> Step:
        return self._step(self, progress, **batch)

    def couple(self, progress: float, vectors: Tensor) -> Step:
        """Return the losses that compare the rows of a whole batch, [N, ...]."""
        if self._couple is None:
            raise RetrobenchError("An objective with couples_batch needs Pretraining(..., couple=...).")
        return self._couple(self, progress, vectors)

    def begin(self, progress: float) -> None:
        """Prepare a step, before its first forward."""
        if self._begin is not None:
            self._begin(self, progress)

    @torch.no_grad()
    def _replace_parameters(self, added: Mapping[str, Tensor]) -> None:
        """Copy the parameters of an earlier stage over the new ones of equal name; the others stay as they are."""
        own = dict(self.named_parameters())
        shared = {name.partition(".")[0] for name in added} & set(self._modules)
        names = [name for name in {**own, **added} if name.partition(".")[0] in shared]
        for name in names:
            sizes = [list(source[name].shape) if name in source else "missing" for source in (own, added)]
            if sizes[0] != sizes[1]:
                raise RetrobenchError(
                    f"{name} is {sizes[0]}, and the earlier stage's is {sizes[1]}. Give both stages equal settings."
                )
            own[name].copy_(added[name])

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but the kept ones."""
        super().train(mode)
        for name in self._kept:
            self.get_submodule(name).eval()
        return self

    def is_kept(self, key: str) -> bool:
        """Return whether a tensor's name is that of a kept module's tensor."""
        return key.partition(".")[0] in self._kept


def _holds_copies(module: nn.Module, backbone: Backbone) -> bool:
    """Return whether a module has a matrix of the backbone's values; new ones have none by chance."""
    if getattr(module, "is_copy", False):
        return True
    originals = [parameter for parameter in backbone.parameters() if parameter.ndim > 1]
    for matrix in [parameter for parameter in module.parameters() if parameter.ndim > 1]:
        for original in originals:
            alike = original.shape == matrix.shape and original.device == matrix.device
            if alike and torch.equal(original, matrix):
                return True
    return False


def _drop_kept(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Drop the tensors of kept modules from a state that is saved."""
    assert isinstance(model, Pretraining)
    for key in list(state):
        if key.startswith(prefix) and model.is_kept(key.removeprefix(prefix)):
            del state[key]


def _restore_kept(model: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Add the present tensors of kept modules to a state that is loaded."""
    assert isinstance(model, Pretraining)
    for name in model._kept:
        for key, tensor in model.get_submodule(name).state_dict().items():
            state[f"{prefix}{name}.{key}"] = tensor
