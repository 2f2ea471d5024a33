"""The vectors of a published encoder are those of its files, settings and options."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import tiny
import torch
from published_models import assert_close, difference, ignore, load, load_once, pairs, sources, texts_of, write_models
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from retrobench.retrieval import embedding
from retrobench.retrieval.encoders import Kind
from retrobench.retrieval.encoders.forward import Forward, Tokenised, Whole
from retrobench.retrieval.vectors import Vectors

TEXTS = ["ba da fe", "ge ki lo mu na pe ra si to bu di", "", "go " * 60, "ba da fe ge"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that no test changes."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a model, which may then be changed, to a folder called `model`."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "model"))


def by_hand(folder: Path, texts: list[str], pooling: str, length: int) -> np.ndarray:
    """Return the mean or the first of the last hidden states of each text, tokenised alone and so without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inner = AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        encoding = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            hidden = inner(encoding["input_ids"]).last_hidden_state[0]
        if pooling == "cls":
            rows.append(hidden[0])
        else:
            rows.append(hidden.mean(0))
    return torch.stack(rows).numpy()


def with_prefix(prefix: str) -> list[str]:
    return [prefix + text for text in TEXTS]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [N, D] scaled to the length 1."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / norms)


def test_a_tokenizer_that_adds_nothing_to_a_text(copied: Callable[[str], Path]) -> None:
    """An empty text then has no token, so it cannot show the width of vectors."""
    folder = copied("mean")
    tiny.tokenizer().save_pretrained(folder)
    encoder = load(folder, passage_prefix="")
    assert encoder.width == published.WIDTH
    written = folder / "vectors"
    written.mkdir()
    encoder.write(written, pairs(3), 3, "passage", ignore)
    assert Vectors.open(written).width == published.WIDTH


def test_a_dense_layer_gives_the_width(models: dict[str, Path]) -> None:
    assert load_once(models["two"]).width == 8


def test_a_model_without_a_width_of_its_own(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentenceTransformer, "get_embedding_dimension", lambda self: None)
    assert load_once(models["two"]).width == 8


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_plain_encoder_is_pooled_as_chosen(pooling: str, models: dict[str, Path]) -> None:
    hidden = by_hand(models["bare"], TEXTS, pooling, published.POSITIONS)
    by_dot = load_once(models["bare"], pooling=pooling, similarity="dot")
    by_cos = load_once(models["bare"], pooling=pooling)
    assert_close(by_dot.embed(TEXTS, "passage"), hidden)
    assert_close(by_cos.embed(TEXTS, "passage"), unit(hidden))
    norms = np.linalg.norm(hidden, axis=1)
    assert np.abs(norms - 1).min() > 0.5, "cos and dot differ here"


def test_prompts_length_and_normalisation_are_applied(models: dict[str, Path]) -> None:
    encoder = load_once(models["mean"])
    queries = by_hand(models["mean"], with_prefix("ba da: "), "mean", 24)
    passages = by_hand(models["mean"], with_prefix("fe ge: "), "mean", 24)
    assert_close(encoder.embed(TEXTS, "query"), unit(queries))
    assert_close(encoder.embed(TEXTS, "passage"), unit(passages))


def test_vectors_equal_sentence_transformers(models: dict[str, Path]) -> None:
    loaded = SentenceTransformer(str(models["two"]), device="cpu")
    theirs = loaded.encode(TEXTS)
    assert theirs.shape == (5, 8)
    by_dot = load_once(models["two"], similarity="dot")
    by_cos = load_once(models["two"])
    assert_close(by_dot.embed(TEXTS, "query"), theirs)
    assert_close(by_cos.embed(TEXTS, "query"), unit(theirs))


def test_a_chosen_query_prefix_is_applied(models: dict[str, Path]) -> None:
    encoder = load_once(models["mean"], query_prefix="lo mu ", passage_prefix="")
    hidden = by_hand(models["mean"], with_prefix("lo mu "), "mean", 24)
    assert_close(encoder.embed(TEXTS, "query"), unit(hidden))


@pytest.mark.parametrize(
    ("choices", "pooling", "length"),
    [({}, "mean", 24), ({"max_length": 5}, "mean", 5), ({"pooling": "cls"}, "cls", 24)],
)
def test_overrides_change_the_vectors_as_they_should(
    choices: dict[str, Any], pooling: str, length: int, models: dict[str, Path]
) -> None:
    encoder = load_once(models["mean"], passage_prefix="", **choices)
    hidden = by_hand(models["mean"], TEXTS, pooling, length)
    assert_close(encoder.embed(TEXTS, "passage"), unit(hidden))


def test_a_shorter_length_changes_only_longer_texts(models: dict[str, Path]) -> None:
    vectors = load_once(models["mean"], passage_prefix="").embed(TEXTS, "passage")
    shortened = load_once(models["mean"], passage_prefix="", max_length=5).embed(TEXTS, "passage")
    assert_close(shortened[0], vectors[0])
    assert difference(shortened[1], vectors[1]) >= 1e-5


def test_the_order_of_texts_is_kept_across_batches(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": 30, "cuda": 30})
    encoder = load_once(models["silent"])
    texts, alone = [], []
    for number in range(20):
        text = "ba " * (1 + number % 3) + "lo " * (number * 7 % 11)
        texts.append(text)
        alone.append(encoder.embed([text], "passage"))
    reported = list[int]()
    together = encoder.embed(texts, "passage", reported.append)
    assert_close(together, np.concatenate(alone))
    assert sum(reported) == 20
    assert len(reported) > 6


def test_the_vectors_of_bfloat16_differ_a_little(models: dict[str, Path]) -> None:
    encoder = load_once(models["bare"], pooling="cls", dtype="bfloat16")
    assert sources(encoder)["dtype"] == ("bfloat16", "--dtype")
    assert encoder.recipe("query")["dtype"] == "bfloat16"
    texts = texts_of(20)
    exact = load_once(models["bare"], pooling="cls").embed(texts, "query")
    vectors = encoder.embed(texts, "query")
    assert vectors.dtype == np.float32
    assert 0 < difference(vectors, exact) < 0.05


@pytest.mark.parametrize("name", ["mean", "bare", "silent", "roberta", "two"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_batches_by_tokens_give_the_librarys_own_vectors(
    name: str, kind: Kind, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every pooling, also with [CLS] alone in the last layer, and for a model that only the library can run."""
    choices = {}
    if name in ("bare", "roberta"):
        choices["pooling"] = "cls"
    encoder = load_once(models[name], **choices)
    texts = texts_of(40)
    encode = encoder.model.encode_document
    if kind == "query":
        encode = encoder.model.encode_query
    forward = encoder.forward(kind)
    prompt = str(encoder.recipe(kind)["prefix"])
    theirs = encode(texts, prompt=prompt, show_progress_bar=False, normalize_embeddings=forward.unit)
    ours = encoder.embed(texts, kind)
    assert_close(ours, np.asarray(theirs))
    distinct = np.unique(ours.round(3), axis=0)
    assert len(distinct) > 10
    assert isinstance(forward.window(texts), Tokenised)

    monkeypatch.setattr(Forward, "_is_plain", lambda self: False)
    assert isinstance(encoder.forward(kind).window(texts), Whole)
    by_library = encoder.embed(texts, kind)
    assert_close(by_library, ours)


def test_only_cls_pooling_spares_the_last_layer(models: dict[str, Path]) -> None:
    encoder = load_once(models["bare"], pooling="cls")
    assert encoder.forward("query")._reads_first_only()
    for mode in ("mean", "max", "lasttoken"):
        pooled = load_once(models["bare"], pooling=mode)
        assert not pooled.forward("query")._reads_first_only()
    joined = load_once(models["two"])
    assert not joined.forward("query")._reads_first_only()


def test_cls_pooling_behind_a_prompt_needs_the_last_layer(models: dict[str, Path]) -> None:
    """[CLS] then belongs to the prompt, and the next token is read."""
    encoder = load(models["bare"], pooling="cls")
    pooling: Any = encoder.model[1]
    pooling.include_prompt = False
    assert not encoder.forward("query")._reads_first_only()
