"""The published encoders that the tests of encoders load, and texts for them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import published

from retrobench.retrieval import encoders
from retrobench.retrieval.encoders import Choices, PublishedEncoder


def load(folder: Path, **choices: Any) -> PublishedEncoder:
    return encoders.load_published(str(folder), Choices(**choices))


load_once = functools.cache(load)  # for a model that no test changes


def ignore(count: int) -> None:
    """Take a number of finished rows without reporting it."""


def sources(encoder: PublishedEncoder) -> dict[str, tuple[str | int | bool | None, str]]:
    """Return the value and the source of each setting."""
    result = {}
    for name in encoder.settings.values():
        setting = getattr(encoder.settings, name)
        result[name] = (setting.value, setting.source)
    return result


def write_models(root: Path) -> dict[str, Path]:
    """Write a published encoder of each kind into a folder of its own."""
    dot = {"similarity_fn_name": "dot", "prompts": published.PROMPTS}
    return {
        "bare": published.bare(root / "bare"),
        "roberta": published.roberta(root / "roberta"),
        "mean": published.sentence(root / "mean", says=dot),
        "silent": published.sentence(root / "silent"),
        "two": published.sentence(root / "two", ("cls_token", "mean_tokens"), dense=8, normalize=False),
    }


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference of two numbers."""
    return float(np.abs(ours - theirs).max())


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert difference(ours, theirs) < 1e-5


def pairs(count: int) -> list[tuple[str, str]]:
    """Return texts of up to eight words, each with its id."""
    result = []
    for number in range(count):
        last_word = ("da", "fe", "lo")[number % 3]
        text = "ba " * (number % 7) + last_word
        result.append((f"d{number}", text))
    return result


def texts_of(count: int) -> list[str]:
    return [text for _, text in pairs(count)]
