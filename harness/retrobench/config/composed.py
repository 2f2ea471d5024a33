"""The batches and the module of a composition. Only a training imports this module, for it needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retrobench.objective import Step

__all__ = ["Composed", "added_of", "join_batches"]

MASKED = ("input_ids", "attention_mask", "masked_positions", "masked_ids")  # the inputs of the loss `mlm`


def join_batches(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all batches under KEY@INDEX; equal tensors of one key are one, as KEY@INDEX,INDEX.

    The first batch's attention mask stands by itself too, for the tokens of a text are counted once.
    """
    tensors: dict[str, list[tuple[Tensor, list[int]]]] = {}
    for index, batch in enumerate(batches):
        for key, tensor in batch.items():
            for other, indices in tensors.setdefault(key, []):
                if torch.equal(other, tensor):
                    indices.append(index)
                    break
            else:
                tensors[key].append((tensor, [index]))
    joined = {"attention_mask": batches[0]["attention_mask"]}
    for key, variants in tensors.items():
        for tensor, indices in variants:
            joined[f"{key}@{','.join(map(str, indices))}"] = tensor
    return joined


def _batch_of(index: int, joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch of a component. Components that share a tensor get the same object."""
    batch = {}
    for name, tensor in joined.items():
        key, _, indices = name.partition("@")
        if str(index) in indices.split(","):
            batch[key] = tensor
    return batch


def added_of(added: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return the parameters that a component added in an earlier stage, by its own names."""
    prefix = f"components.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in added.items() if name.startswith(prefix)}


class Composed(nn.Module):
    """The modules of a composition around one backbone."""

    def __init__(
        self,
        backbone: Any,
        modules: Sequence[nn.Module],
        names: Sequence[str],
        weights: Sequence[float],
        coupled: int | None = None,
    ) -> None:
        """Hold the module, the name and the weight of each component; number `coupled` couples its batch."""
        super().__init__()
        self.backbone = backbone
        self.components = nn.ModuleList(modules)
        self.names = tuple(names)
        self.weights = tuple(weights)
        self.coupled = coupled
        # A checkpoint holds the backbone once, though every component holds it.
        self.register_state_dict_post_hook(_drop_repeated)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_restore_repeated)  # type: ignore[no-untyped-call]

    def forward(self, progress: float, **joined: Tensor) -> Step:
        """Return the losses and metrics of all components, weighted, on shared passes of the encoder."""
        batches = [_batch_of(index, joined) for index in range(len(self.components))]
        steps: list[Step] = []
        with self.backbone.shared_passes():
            for component, batch in zip(self.components, batches, strict=True):
                steps.append(component(progress, **batch))
        with_mlm = [index for index, step in enumerate(steps) if "mlm" in step.losses]
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for index, step in enumerate(steps):
            for name, loss in step.losses.items():
                weight = self.weights[index]
                if name == "mlm":
                    alike = [other for other in with_mlm if _mask_alike(batches[index], batches[other])]
                    if alike[-1] > index:
                        continue  # a later component has this loss too
                    weight = max(self.weights[other] for other in alike)
                losses[self._free_name(name, index, losses)] = weight * loss
            for name, metric in step.metrics.items():
                metrics[self._free_name(name, index, metrics)] = metric
        vectors = None if self.coupled is None else steps[self.coupled].vectors
        return Step(losses, metrics, vectors)

    def begin(self, progress: float) -> None:
        """Prepare a step of the component that couples its batch."""
        component: Any = None if self.coupled is None else self.components[self.coupled]
        if hasattr(component, "begin"):
            component.begin(progress)

    def couple(self, progress: float, vectors: Tensor) -> Step:
        """Return the weighted losses that compare the rows of a batch."""
        assert self.coupled is not None, "no component couples its batch"
        component: Any = self.components[self.coupled]
        step: Step = component.couple(progress, vectors)
        weight = self.weights[self.coupled]
        return Step({name: weight * loss for name, loss in step.losses.items()}, step.metrics)

    def _free_name(self, name: str, index: int, taken: Mapping[str, Any]) -> str:
        """Return the name, or COMPONENT.NAME where another component has taken it."""
        return f"{self.names[index]}.{name}" if name in taken else name


def _mask_alike(batch: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two components' batches share the inputs of the masked-language-modelling loss."""
    return all(key in batch and batch[key] is other.get(key) for key in MASKED)


def _repeated(model: Composed) -> list[str]:
    """Return the prefixes of the backbone's names within the components."""
    prefixes = []
    for index, component in enumerate(model.components):
        for name, module in component.named_modules():
            if module is model.backbone:
                prefixes.append(f"components.{index}.{name}.")
    return prefixes


def _drop_repeated(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Drop the backbone's tensors from the components' states."""
    assert isinstance(model, Composed)
    for repeated in _repeated(model):
        for key in [key for key in state if key.startswith(prefix + repeated)]:
            del state[key]


def _restore_repeated(model: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Give the components' states the backbone's tensors again."""
    assert isinstance(model, Composed)
    own = f"{prefix}backbone."
    tensors = {key.removeprefix(own): tensor for key, tensor in state.items() if key.startswith(own)}
    for repeated in _repeated(model):
        for key, tensor in tensors.items():
            state[f"{prefix}{repeated}{key}"] = tensor
