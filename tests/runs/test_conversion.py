"""`convert` writes the tensors of a pickled checkpoint as safetensors, and never runs code of a pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from retrobench.errors import RetrobenchError
from retrobench.retrieval import Choices, load_published
from retrobench.runs import convert
from retrobench.stages.inputs import open_base

TEXTS = ["ba da fe", "ge ki lo mu na"]


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    """Write a model in safetensors."""
    return published.bare(tmp_path / "safe")


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def pickled(safe: Path, content: Any, name: str = "pytorch_model.bin") -> Path:
    """Write the model of `safe` with a pickle of `content` as its weights."""
    folder = safe.with_name("pickled")
    folder.mkdir(exist_ok=True)
    for file in safe.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save(content, folder / name)
    return folder


def vectors(folder: Path) -> list[list[float]]:
    found: list[list[float]] = load_published(str(folder), Choices(pooling="cls")).embed(TEXTS, "query").tolist()
    return found


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("form", ["plain", "wrapped", "parallel", "old names", "old file format"])
def test_a_converted_checkpoint_gives_the_same_vectors(form: str, safe: Path, tmp_path: Path) -> None:
    tensors = tensors_of(safe)
    content: Any = tensors
    if form == "wrapped":
        content = {"state_dict": tensors}
    elif form == "parallel":
        content = {f"module.{name}": tensor for name, tensor in tensors.items()}
    elif form == "old names":
        content = renamed(renamed(tensors, "LayerNorm.weight", "LayerNorm.gamma"), "LayerNorm.bias", "LayerNorm.beta")
    source = pickled(safe, content)
    if form == "old file format":
        torch.save(content, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    converted = convert(str(source), tmp_path / "new")
    assert converted.tensors == len(tensors)
    assert converted.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert vectors(tmp_path / "new") == vectors(safe)
    assert not list((tmp_path / "new").glob("*.bin"))
    assert "retrobench evaluate" in converted.text()


def test_tied_tensors_are_written_under_both_names(safe: Path, tmp_path: Path) -> None:
    tensors = tensors_of(safe)
    words = "bert.embeddings.word_embeddings.weight"
    tensors["cls.predictions.decoder.weight"] = tensors[words]
    convert(str(pickled(safe, tensors)), tmp_path / "new")
    written = tensors_of(tmp_path / "new")
    assert torch.equal(written["cls.predictions.decoder.weight"], written[words])


def test_shards_become_shards(safe: Path, tmp_path: Path) -> None:
    tensors = tensors_of(safe)
    names = sorted(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    weight_map: dict[str, str] = {}
    for file, shard_names in halves.items():
        folder = pickled(safe, {name: tensors[name] for name in shard_names}, file)
        weight_map |= dict.fromkeys(shard_names, file)
    published.write(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    convert(str(folder), tmp_path / "new")
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert vectors(tmp_path / "new") == vectors(safe)


def test_an_index_cannot_name_a_file_elsewhere(safe: Path, tmp_path: Path) -> None:
    folder = pickled(safe, tensors_of(safe))
    published.write(folder / "pytorch_model.bin.index.json", {"weight_map": {"x": "../safe/model.safetensors"}})
    with pytest.raises(RetrobenchError, match=r"names '\.\./safe/model\.safetensors', which is no \.bin file beside"):
        convert(str(folder), tmp_path / "new")


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.marker,)  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["torch", "plain pickle", "beside tensors"])
def test_a_hostile_pickle_runs_no_code(form: str, safe: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = pickled(safe, {"weight": torch.zeros(1), "more": Hostile(marker)})
    if form == "torch":
        torch.save(Hostile(marker), folder / "pytorch_model.bin")
    elif form == "plain pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(marker)))
    reason = r"it (holds [\w.]+, which is no tensor|is no file of tensors)"
    with pytest.raises(RetrobenchError, match=rf"pytorch_model\.bin of model .* is refused: {reason}\. .* Nothing was"):
        convert(str(folder), tmp_path / "new")
    assert not marker.exists()
    assert not list(tmp_path.glob("*new*"))
    # The pickle itself is sound: without the guard it writes the file.
    if form == "plain pickle":
        pickle.loads((folder / "pytorch_model.bin").read_bytes())
        assert marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 32, "num_attention_heads": 2}, r"do not fit its config\.json: .* has another shape"),
        ({"num_hidden_layers": 3}, r"do not fit its config\.json: .* is missing"),
    ],
)
def test_weights_of_another_shape_are_refused(change: dict[str, int], message: str, safe: Path, tmp_path: Path) -> None:
    folder = pickled(safe, tensors_of(safe))
    published.change(folder / "config.json", **change)
    with pytest.raises(RetrobenchError, match=message):
        convert(str(folder), tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [([torch.zeros(1)], "a list and no tensors"), ({"steps": 3}, "'steps' is a int"), ({}, "a dict and no tensors")],
)
def test_other_content_is_refused(content: Any, reason: str, safe: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=f"is refused: it holds {reason}|is refused: {reason}"):
        convert(str(pickled(safe, content)), tmp_path / "new")


def test_a_file_that_was_cut_is_refused(safe: Path, tmp_path: Path) -> None:
    folder = pickled(safe, tensors_of(safe))
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(RetrobenchError, match="is refused: "):
        convert(str(folder), tmp_path / "new")


def test_nothing_to_convert_and_no_place_for_it(safe: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"holds no pytorch_model\.bin without safetensors beside it"):
        convert(str(safe), tmp_path / "new")
    with pytest.raises(RetrobenchError, match=r"safe exists already\. Name a new folder with --to\."):
        convert(str(pickled(safe, tensors_of(safe))), safe)


def test_the_refusal_of_pickled_weights_names_the_command(safe: Path) -> None:
    folder = pickled(safe, tensors_of(safe))
    command = rf"`retrobench convert {folder} --to FOLDER`"
    with pytest.raises(RetrobenchError, match=command):
        load_published(str(folder), Choices(pooling="cls"))
    with pytest.raises(RetrobenchError, match=command):
        open_base(str(folder))
