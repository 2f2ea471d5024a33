"""Vectors of a published encoder on the disk: their order, resumed attempts, and texts that are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
from published_models import assert_close, ignore, load, load_once, pairs, texts_of, write_models
from safetensors.torch import load_file, save_file

from retrobench.errors import RetrobenchError
from retrobench.retrieval import embedding
from retrobench.retrieval.vectors import Vectors


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that no test changes."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a model, which may then be changed, to a folder called `model`."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "model"))


def test_rows_are_written_in_order_with_their_names(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "WINDOW", 8)
    encoder = load_once(models["mean"])
    reported = list[int]()
    cost = encoder.write(tmp_path, iter(pairs(21)), 21, "passage", reported.append)
    assert cost == {"texts": 21.0}
    assert sum(reported) == 21
    assert contents(tmp_path).keys() == {"manifest.json", "ids.json", "dense.npy"}
    vectors = Vectors.open(tmp_path)
    assert_close(vectors.dense(0, 21), encoder.embed(texts_of(21), "passage"))
    assert vectors.ids == [text_id for text_id, _ in pairs(21)]


class Stop(Exception):
    """Raised to end an attempt early."""


@pytest.mark.parametrize("read", [0, 7, 8, 11, 16])
def test_an_interrupted_attempt_is_resumed(
    read: int, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished windows are kept, and the files equal those of an unbroken attempt, byte for byte."""
    monkeypatch.setattr(embedding, "WINDOW", 8)
    encoder = load_once(models["mean"])
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    unbroken.mkdir()
    resumed.mkdir()
    encoder.write(unbroken, pairs(21), 21, "passage", ignore)

    def interrupted() -> Iterator[tuple[str, str]]:
        yield from pairs(read)
        raise Stop

    with pytest.raises(Stop):
        encoder.write(resumed, interrupted(), 21, "passage", ignore)
    reported: list[int] = []
    encoder.write(resumed, iter(pairs(21)), 21, "passage", reported.append)
    finished = read // 8 * 8
    assert reported[0] == finished
    assert sum(reported) == 21
    assert contents(unbroken) == contents(resumed)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("count", "announced"), [(5, 6), (6, 5), (0, 0)])
def test_a_wrong_number_of_texts_is_refused(
    count: int, announced: int, models: dict[str, Path], tmp_path: Path
) -> None:
    encoder = load_once(models["mean"])
    text = f"{announced} texts \\(query\\) were announced and {count} read: the collection's files are cut short"
    with pytest.raises(RetrobenchError, match=text):
        encoder.write(tmp_path, pairs(count), announced, "query", ignore)


def test_a_vector_that_is_not_finite_names_its_text(
    models: dict[str, Path], copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("silent")
    file = folder / "model.safetensors"
    weights = load_file(file)
    word_embeddings = weights["bert.embeddings.word_embeddings.weight"]
    token = tiny.tokenizer().convert_tokens_to_ids("lo")
    word_embeddings[token] = float("nan")
    save_file(weights, file, {"format": "pt"})
    encoder = load(folder)
    text = r"gives passage 'd2' a vector that is not finite \(of the 9 read with it, 3\)"
    with pytest.raises(RetrobenchError, match=text):
        encoder.write(tmp_path, pairs(9), 9, "passage", ignore)
