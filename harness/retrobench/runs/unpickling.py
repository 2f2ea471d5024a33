"""
Rewrite one pickled file of weights as safetensors.

    python -I unpickling.py WEIGHTS.bin OUT.safetensors

This file runs as a program of its own, so that a crafted pickle meets a process that holds nothing. It imports nothing
of the package. Only tensors are unpickled, by torch's restricted unpickler; other content is refused with exit code 3.
"""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

REFUSED = 3  # the exit code
WRAPPERS = ("state_dict", "model")  # the keys under which trainers keep the weights
# The names in checkpoints of TensorFlow's BERT; transformers renames them while it loads.
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# A function or a class in a message of torch's restricted unpickler.
FORBIDDEN = re.compile(r"(?:GLOBAL|global) (?P<name>[\w.]+)")
PARALLEL = "module."  # DataParallel's prefix


def read(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickled file. ValueError for any other content."""
    # Not mapped: torch compares the size of a mapped record with nothing.
    content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"it holds a {type(content).__name__} and no tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{name!r} is a {type(value).__name__}, no tensor with a name")
    if all(name.startswith(PARALLEL) for name in content):
        content = {name.removeprefix(PARALLEL): tensor for name, tensor in content.items()}
    return {renamed(name): tensor for name, tensor in content.items()}


def renamed(name: str) -> str:
    """Return the present name of a tensor."""
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def reason(error: Exception) -> str:
    """Return an error in one line. torch's own advice, to unpickle everything, is left out."""
    refused = FORBIDDEN.search(str(error))
    if refused:
        return f"it holds {refused['name']}, which is no tensor"
    if isinstance(error, pickle.UnpicklingError):
        return "it is no file of tensors"
    return (str(error) or type(error).__name__).splitlines()[0]


def main() -> None:
    """Rewrite the file that the command line names, and compare the result with it."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        tensors = read(source)
    except (pickle.UnpicklingError, ValueError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        print(reason(error), file=sys.stderr)
        sys.exit(REFUSED)
    # Tied tensors share their memory, which safetensors refuses. Each is written once under each of its names.
    separate = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(separate, target, metadata={"format": "pt"})
    written = load_file(target)
    unequal = [name for name in tensors if not torch.equal(written[name], tensors[name])]
    if unequal or written.keys() != tensors.keys():
        print(f"{len(unequal)} tensors changed while they were written, {unequal[:1]} among them", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
