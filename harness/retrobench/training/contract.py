"""
The contract of `objective.py`, as far as values show it while an objective is at work.

* check_module     the module that `wrap` returns
* choose_examples  the documents and lengths that `examples` returns
* check_batch      a batch that `collate` returns
* check_rows       equal numbers of rows for equally many passages
* check_step       the Step that a forward returns

Each raises RetrobenchError with the objective, the fault and the command that tries the objective.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor, nn

from retrobench.errors import RetrobenchError
from retrobench.model import Backbone
from retrobench.objective import ChoosesExamples, Objective, Step

__all__ = ["check_batch", "check_module", "check_rows", "check_step", "choose_examples"]


def check_module(name: str, model: object, backbone: Backbone, couples: bool = False) -> nn.Module:
    """Return the module that `wrap` gave, if it is one and holds the backbone; with `couples` it compares examples."""
    if not isinstance(model, nn.Module):
        raise _fault(name, f"wrap() must give a torch module, not {_describe(model)}")
    if not any(module is backbone for module in model.modules()):
        raise _fault(name, "wrap() must give a module that holds the backbone")
    if couples and not callable(getattr(model, "couple", None)):
        raise _fault(name, "couples_batch is True, and wrap() gives a module without couple(progress, vectors)")
    return model


def check_batch(name: str, batch: object, max_length: int) -> dict[str, Tensor]:
    """Return the batch that `collate` gave, if it is a dict of tensors on the CPU with an attention mask [B, L]."""
    if not isinstance(batch, dict):
        raise _fault(name, f"collate() must give a dict of tensors by name, not {_describe(batch)}")
    for key, value in batch.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _fault(name, f"collate() must give a dict of tensors by name, not {_describe(value)} as {key!r}")
        if value.device.type != "cpu":
            raise _fault(name, f"collate() must stay on the CPU, and {key!r} is on {value.device}")
    if "progress" in batch:
        raise _fault(name, "collate() gives 'progress', which is the forward's first argument")
    mask = batch.get("attention_mask")
    if mask is None:
        raise _fault(name, "collate() gives no 'attention_mask' [B, L], by which tokens are counted")
    if mask.shape[-1] > max_length:
        raise _fault(name, f"collate() made {mask.shape[-1]} tokens of at most {max_length}")
    return batch


def check_rows(name: str, expected: float, actual: float) -> None:
    """Check that `collate` gave as many rows per passage as before."""
    if expected != actual:
        raise _fault(
            name, f"collate() must give equally many rows for each passage, and gave {expected:g}, then {actual:g}"
        )


def choose_examples(objective: Objective, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the documents [E] and lengths [E] of an objective's examples; None where each document is one.

    `lengths` [N] are the documents' in tokens. RetrobenchError if `examples` gives others than documents, or none.
    """
    if not hasattr(objective, "examples"):
        return None
    name = objective.name
    examples = cast(ChoosesExamples, objective).examples(lengths, max_length)
    if not isinstance(examples, tuple) or len(examples) != 2:
        raise _fault(
            name, f"examples() must give two arrays, the documents and their lengths, not {_describe(examples)}"
        )
    rows, sizes = (np.asarray(array) for array in examples)
    if rows.ndim != 1 or rows.shape != sizes.shape or rows.dtype.kind not in "iu" or sizes.dtype.kind not in "iu":
        raise _fault(name, "examples() must give two arrays [E] of whole numbers, the documents and their lengths")
    if not len(rows):
        raise RetrobenchError(
            f"{name}: no document of the corpus is long enough to be an example. Choose another corpus."
        )
    if rows.min() < 0 or rows.max() >= len(lengths):
        raise _fault(name, f"examples() names the document {rows.max()} of {len(lengths)}")
    return rows, sizes


def check_step(name: str, step: object, couples: bool = False) -> Step:
    """Return the result of a forward, if it is a Step of scalar tensors with a loss; with `couples`, with vectors."""
    if not isinstance(step, Step):
        raise _fault(name, f"forward() must give a Step with losses, not {_describe(step)}")
    if not isinstance(step.losses, dict) or not isinstance(step.metrics, dict):
        raise _fault(name, "forward() must give a Step of two dicts, the losses and the metrics")
    if not step.losses and not couples:
        raise _fault(name, "forward() must give a Step with losses, and it has none")
    if couples and (not isinstance(step.vectors, Tensor) or not step.vectors.ndim):
        raise _fault(name, f"couples_batch is True, so forward() must give vectors, not {_describe(step.vectors)}")
    if not couples and step.vectors is not None:
        raise _fault(name, "forward() gives vectors, which are compared only with couples_batch = True")
    for key, value in {**step.losses, **step.metrics}.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise _fault(name, f"{key!r} must be a tensor without dimensions, not {_describe(value)}")
    return step


def _describe(value: object) -> str:
    """Return the type of a value, and the shape of a tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if value is None:
        return "None"
    return f"a {type(value).__name__}"


def _fault(name: str, text: str) -> RetrobenchError:
    return RetrobenchError(f"{name}: {text}. `retrobench objectives check {name}` tries it.")
