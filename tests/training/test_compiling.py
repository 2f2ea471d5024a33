"""Compiled layers stay compiled: a layer that is compiled too often falls back to eager code with a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bases import MAX_LENGTH, make
from torch import Tensor, nn
from torch._dynamo.utils import counters

from retrobench.model.backbones import Backbone
from retrobench.training.loop import _compile_layers


def padded(texts: int, length: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return ids [B, L] and their mask, whose last text has this much padding."""
    ids = torch.randint(10, 100, (texts, length))
    mask = torch.ones_like(ids)
    mask[-1, length - padding :] = 0
    return ids, mask


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks at activations
def test_batches_of_all_shapes_share_few_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and read ModernBERT as on a GPU, by a compiler that changes nothing; its layers are of two types."""
    own_compile = nn.Module.compile

    def compile_eagerly(module: nn.Module, **arguments: Any) -> None:
        own_compile(module, backend="eager", **arguments)

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    base = make("modernbert", tmp_path)
    config = type(base.lm.config)(**{**base.lm.config.to_dict(), "num_hidden_layers": 4, "layer_types": None})
    assert set(config.layer_types[1:]) == {"full_attention", "sliding_attention"}
    backbone = Backbone(type(base.lm)(config))
    monkeypatch.setattr(backbone._family, "mask", backbone._family._device_mask)
    _compile_layers(backbone)
    torch._dynamo.reset()
    counters.clear()
    for texts, length, padding in [(4, 18, 0), (4, 18, 3), (3, 20, 0), (2, 33, 5), (1, 7, 0), (4, MAX_LENGTH, 1)]:
        ids, mask = padded(texts, length, padding)
        backbone.hidden(ids, mask).sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            backbone.hidden(ids, mask)
    assert not counters["unimplemented"]
    # With gradients or without, a batch of one text or of several, the first layer, which lacks a norm, or another.
    assert counters["stats"]["unique_graphs"] == 8
