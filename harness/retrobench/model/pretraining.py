"""A backbone and the modules that an objective adds, as the training loop takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor, nn

from retrobench.errors import RetrobenchError
from retrobench.model.backbones import Backbone
from retrobench.model.internals import initialise
from retrobench.objective import Step

__all__ = ["Pretraining"]


class Pretraining(nn.Module):
    """A backbone with the modules that an objective adds; `step(model, progress, **batch)` is the forward.

    Modules given by name are trained from the weights that they have. Those in `fresh` are first drawn anew, as the
    backbone's family draws. Those in `kept` are never trained, stay in evaluation mode and are in no checkpoint, since
    `wrap` makes them again. Each is an attribute of the model.
    """

    def __init__(
        self,
        backbone: Backbone,
        step: Callable[..., Step],
        *,
        fresh: Mapping[str, nn.Module] | None = None,
        kept: Mapping[str, nn.Module] | None = None,
        **trained: nn.Module,
    ) -> None:
        """RetrobenchError for a name that stands twice, and for copied layers in `fresh`."""
        super().__init__()
        self.backbone = backbone
        self._step = step
        self._kept = tuple(kept or {})
        for name, module in (*(fresh or {}).items(), *trained.items(), *(kept or {}).items()):
            if hasattr(self, name):
                raise RetrobenchError(f"Pretraining() has two modules {name!r}. Give each a name of its own.")
            self.add_module(name, module)
        for name, module in (fresh or {}).items():
            if getattr(module, "is_copy", False):
                raise RetrobenchError(f"{name!r} holds copied layers, which `fresh` would draw anew. Give it by name.")
            initialise(backbone.lm, module)
        for module in (kept or {}).values():
            module.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_drop_kept)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_restore_kept)  # type: ignore[no-untyped-call]

    def forward(self, progress: float, **batch: Tensor) -> Step:
        return self._step(self, progress, **batch)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but the kept ones."""
        super().train(mode)
        for name in self._kept:
            self.get_submodule(name).eval()
        return self

    def is_kept(self, key: str) -> bool:
        """Return whether a tensor's name is that of a kept module's tensor."""
        return key.partition(".")[0] in self._kept


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
