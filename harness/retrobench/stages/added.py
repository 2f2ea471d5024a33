"""The trained parameters that an objective adds to the backbone, kept beside the encoder for the next stage."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["read_added", "write_added"]

FILE = "added/model.safetensors"  # in a folder of its own, where no loader of the encoder looks


def write_added(folder: Path, model: nn.Module, backbone: nn.Module) -> None:
    """Write the trained parameters that are not the backbone's, if there are any."""
    own = {id(parameter) for parameter in backbone.parameters()}
    added = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            added[name] = parameter.detach().cpu().contiguous()
    if added:
        (folder / FILE).parent.mkdir(exist_ok=True)
        save_file(added, folder / FILE)


def read_added(folder: Path) -> dict[str, Tensor]:
    """Read the parameters that the earlier section's objective added to the backbone."""
    if not (folder / FILE).exists():
        return {}
    return load_file(folder / FILE)
