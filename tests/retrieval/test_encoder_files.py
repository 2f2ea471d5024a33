"""Published encoders are found by folder, name or hub id; unusable files are refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import published
import pytest
import torch
from safetensors.torch import load_file

from retrobench.errors import RetrobenchError
from retrobench.retrieval import encoders
from retrobench.retrieval.encoders import Choices, PublishedEncoder

TEXTS = ["ba da fe", "ge ki lo mu na pe ra si to bu di", ""]


def load(folder: Path) -> PublishedEncoder:
    return encoders.load_published(str(folder), Choices())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that no test changes."""
    root = tmp_path_factory.mktemp("models")
    return {
        "bare": published.bare(root / "bare"),
        "mean": published.sentence(root / "mean", says={"similarity_fn_name": "dot", "prompts": published.PROMPTS}),
        "two": published.sentence(root / "two", ("cls_token", "mean_tokens"), dense=8, normalize=False),
    }


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a model, which may then be changed, to a folder called `model`."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "model"))


def test_a_hub_id_is_read_from_the_cache_offline(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        RetrobenchError,
        match=r"^Model 'org/tiny' is neither a folder, nor one of retrobench/.+, nor to be had from the hub \(.+\)\.",
    ):
        encoders.load_published("org/tiny", Choices())
    cached = tmp_path / "models--org--tiny"
    shutil.copytree(models["mean"], cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    encoder = encoders.load_published("org/tiny", Choices())
    vectors = load(models["mean"]).embed(TEXTS, "query")
    assert encoder.name == "org/tiny"
    assert np.array_equal(encoder.embed(TEXTS, "query"), vectors)


def test_the_shipped_base_goes_by_its_name() -> None:
    assert encoders.find("retrobench/base").name == "base"


def convert(folder: Path) -> None:
    """Leave the weights in pickled form alone."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def own_module(folder: Path) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[1]["type"] = "modeling_mine.Pooling"
    published.write(folder / "modules.json", listed)


def outside(folder: Path) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[1]["path"] = "../1_Pooling"
    published.write(folder / "modules.json", listed)


def dense_of_pickles(folder: Path) -> None:
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()


def another_shape(folder: Path) -> None:
    published.change(folder / "config.json", hidden_size=32)


SAYS = "config_sentence_transformers.json"
REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "pickled": (
        "mean",
        convert,
        r"Model '.*model' holds no safetensors, and nothing pickled is loaded\. `retrobench convert",
    ),
    "pickled dense": ("two", dense_of_pickles, r"Model '.*model \(2_Dense\)' holds no safetensors"),
    "no weights": ("mean", lambda f: (f / "model.safetensors").unlink(), "holds no safetensors"),
    "own code": (
        "mean",
        lambda f: published.change(f / "config.json", auto_map={"AutoModel": "mine.Model"}),
        r"comes with code of its own \(auto_map in config\.json\), and no model's code is run\. Choose a model of",
    ),
    "own module": ("mean", own_module, r"comes with code of its own \(modeling_mine\.Pooling in modules\.json\)"),
    "adapter": ("mean", lambda f: published.write(f / "adapter_config.json", {}), "is an adapter to another model"),
    "reranker": (
        "mean",
        lambda f: published.change(f / SAYS, model_type="CrossEncoder"),
        "is a CrossEncoder, and only encoders that give one dense vector for each text can be evaluated",
    ),
    "own activation": (
        "two",
        lambda f: published.change(f / "2_Dense" / "config.json", activation_function="mine.Swish"),
        r"'.*model \(2_Dense\)' asks for the activation 'mine\.Swish', which is not torch's",
    ),
    "distance": (
        "mean",
        lambda f: published.change(f / SAYS, similarity_fn_name="euclidean"),
        "compares by 'euclidean' distance.* Choose --similarity dot or cos",
    ),
    "lacking tensors": (
        "mean",
        lambda f: published.without(f, "layer.1.attention"),
        r"lack 10 tensors, encoder\.layer\.1\.attention\.output\.LayerNorm\.bias among them, which would be random",
    ),
    "other shapes": ("mean", another_shape, r"cannot be loaded \(.+\)\. Check that its files are whole"),
    "no tokenizer": ("mean", lambda f: (f / "tokenizer.json").unlink(), r"cannot be loaded \(.+\)\. Check"),
    "broken weights": (
        "mean",
        lambda f: (f / "model.safetensors").write_bytes(b"x"),
        r"cannot be loaded \(.+\)\. Check",
    ),
    "broken list": ("mean", lambda f: (f / "modules.json").write_text("["), r"modules\.json is not JSON"),
    "odd list": ("mean", lambda f: (f / "modules.json").write_text('["a"]'), "lists no path and type"),
    "place outside": ("mean", outside, r"names a place outside the model, '\.\./1_Pooling'"),
    "odd config": ("mean", lambda f: (f / "config.json").write_text("[]"), r"config\.json is not a JSON object"),
    "unknown default": (
        "mean",
        lambda f: published.change(f / SAYS, default_prompt_name="mine"),
        r"cannot be loaded \(Default prompt name 'mine' not found",
    ),
    "no pooling": (
        "bare",
        lambda f: None,
        r"Say it with --pooling, one of cls, max, mean, mean_sqrt_len_tokens, weigh",
    ),
    "no model": ("bare", lambda f: (f / "config.json").unlink(), "has neither modules.json nor a config.json with"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_files_are_refused_in_one_line(kind: str, copied: Callable[[str], Path]) -> None:
    name, spoil, text = REFUSED[kind]
    folder = copied(name)
    spoil(folder)
    with pytest.raises(RetrobenchError, match=text) as refused:
        load(folder)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)
