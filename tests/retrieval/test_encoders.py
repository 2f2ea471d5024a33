"""A published encoder is run as its files say: settings, vectors, and how they are written."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from retrobench.errors import RetrobenchError
from retrobench.retrieval import embedding, encoders
from retrobench.retrieval.encoders import Choices, Kind, PublishedEncoder
from retrobench.retrieval.encoders.forward import Forward, Tokenised, Whole
from retrobench.retrieval.vectors import Vectors

TEXTS = ["ba da fe", "ge ki lo mu na pe ra si to bu di", "", "go " * 60, "ba da fe ge"]
PROMPTS = published.PROMPTS


def load(folder: Path, **choices: Any) -> PublishedEncoder:
    return encoders.load_published(str(folder), Choices(**choices))


rest = functools.cache(load)  # of a model that no test changes


def said(of: PublishedEncoder) -> dict[str, tuple[str | int | bool | None, str]]:
    names = list(of.settings.values())
    settings = [getattr(of.settings, name) for name in names]
    return {name: (setting.value, setting.source) for name, setting in zip(names, settings, strict=True)}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that no test changes."""
    root = tmp_path_factory.mktemp("models")
    dot = {"similarity_fn_name": "dot", "prompts": PROMPTS}
    return {
        "bare": published.bare(root / "bare"),
        "roberta": published.roberta(root / "roberta"),
        "mean": published.sentence(root / "mean", says=dot),
        "silent": published.sentence(root / "silent"),
        "two": published.sentence(root / "two", ("cls_token", "mean_tokens"), dense=8, normalize=False),
    }


@pytest.fixture
def copied(places: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A model that may be spoilt, in a folder called `model`."""
    return lambda name: Path(shutil.copytree(places[name], tmp_path / "model"))


# What holds.


def test_settings_are_what_the_files_say(places: dict[str, Path]) -> None:
    config = "config_sentence_transformers.json"
    assert said(rest(places["mean"])) == {
        "pooling": ("mean", "1_Pooling/config.json"),
        "normalize": (True, "modules.json"),
        "query_prefix": ("ba da: ", f"{config}, prompt 'query'"),
        "passage_prefix": ("fe ge: ", f"{config}, prompt 'passage'"),
        "max_length": (24, "sentence_bert_config.json"),
        "similarity": ("dot", config),
        "dtype": ("float32", "default on a CPU"),
    }


def test_what_the_files_leave_open_is_sentence_transformers_default(places: dict[str, Path]) -> None:
    found = said(rest(places["silent"]))
    assert found["similarity"] == ("cos", "default of sentence-transformers")
    assert found["query_prefix"] == found["passage_prefix"] == ("", "default")
    assert SentenceTransformer(str(places["silent"])).similarity_fn_name == "cosine"
    found = said(rest(places["bare"], pooling="cls"))
    assert found["pooling"] == ("cls", "--pooling") and found["normalize"] == (False, "default")
    assert found["similarity"] == ("cos", "default of sentence-transformers")
    assert found["max_length"] == (published.POSITIONS, "config.json")
    assert said(rest(places["two"]))["pooling"] == ("cls+mean", "1_Pooling/config.json")


def test_options_come_before_files(places: dict[str, Path]) -> None:
    found = said(
        rest(places["mean"], pooling="max", query_prefix="", passage_prefix="lo ", max_length=9, similarity="cos")
    )
    assert {name: value for name, value in found.items() if name not in ("normalize", "dtype")} == {
        "pooling": ("max", "--pooling"),
        "query_prefix": ("", "--query-prefix"),
        "passage_prefix": ("lo ", "--passage-prefix"),
        "max_length": (9, "--max-length"),
        "similarity": ("cos", "--similarity"),
    }


@pytest.mark.parametrize(
    ("prompts", "default", "query", "passage"),
    [
        ({"query": "q ", "document": "d ", "passage": "p "}, None, "q ", "d "),
        ({"query": "q ", "document": "", "corpus": "c "}, None, "q ", "c "),  # an empty one is written by the library
        ({"query": "q "}, None, "q ", ""),
        ({"any": "a "}, "any", "a ", "a "),
        ({"query": "q ", "any": "a "}, "any", "q ", "a "),
        ({"query": "", "document": "", "any": "a "}, "any", "", ""),
        ({}, None, "", ""),
    ],
)
def test_which_prompt_holds(
    prompts: dict[str, str], default: str | None, query: str, passage: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("mean")
    published.change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    values = load(folder).settings.values()
    assert (values["query_prefix"], values["passage_prefix"]) == (query, passage)


def test_what_sentence_transformers_saves_today_is_read_back(places: dict[str, Path], tmp_path: Path) -> None:
    SentenceTransformer(str(places["mean"])).save(str(tmp_path))
    found = said(load(tmp_path))
    assert {name: value for name, (value, _) in found.items()} == rest(places["mean"]).settings.values()
    assert found["max_length"] == (24, "tokenizer_config.json")


def test_settings_are_printed_as_texts(places: dict[str, Path]) -> None:
    shown = {name: value for name, value, _ in rest(places["silent"], query_prefix="q: ").settings.lines()}
    assert shown["query_prefix"] == "'q: '" and shown["passage_prefix"] == "''"
    assert (shown["normalize"], shown["max_length"], shown["pooling"]) == ("yes", "24", "mean")


# Vectors.


def by_hand(folder: Path, texts: list[str], pooling: str, length: int) -> np.ndarray:
    """Tokenised one by one, so without padding: the mean or the first of the last hidden states."""
    words, inner = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        ids = words(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden = inner(ids).last_hidden_state[0]
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    return torch.stack(rows).numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.shape == theirs.shape and ours.dtype == np.float32 and bool(np.abs(ours - theirs).max() < 1e-5)


def test_a_tokenizer_that_adds_nothing_to_a_text(places: dict[str, Path], copied: Callable[[str], Path]) -> None:
    """Nothing then is left of an empty text, so that none says how wide vectors are."""
    folder = copied("mean")
    tiny.tokenizer().save_pretrained(folder)
    found = load(folder, passage_prefix="")
    (folder / "vectors").mkdir()
    found.write(folder / "vectors", pairs(3), 3, "passage", lambda n: None)
    assert found.width == published.WIDTH == Vectors.open(folder / "vectors").width
    assert rest(places["two"]).width == 8


def test_a_model_that_does_not_say_its_width(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentenceTransformer, "get_embedding_dimension", lambda self: None)
    assert rest(places["two"]).width == 8


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_plain_encoder_is_pooled_as_asked(pooling: str, places: dict[str, Path]) -> None:
    hidden = by_hand(places["bare"], TEXTS, pooling, published.POSITIONS)
    assert close(rest(places["bare"], pooling=pooling, similarity="dot").embed(TEXTS, "passage"), hidden)
    assert close(rest(places["bare"], pooling=pooling).embed(TEXTS, "passage"), unit(hidden))
    assert abs(np.linalg.norm(hidden, axis=1) - 1).min() > 0.5, "cos and dot differ here"


def test_prompts_length_and_normalisation_are_applied(places: dict[str, Path]) -> None:
    found = rest(places["mean"])
    queries = by_hand(places["mean"], ["ba da: " + text for text in TEXTS], "mean", 24)
    passages = by_hand(places["mean"], ["fe ge: " + text for text in TEXTS], "mean", 24)
    assert close(found.embed(TEXTS, "query"), unit(queries)) and close(found.embed(TEXTS, "passage"), unit(passages))


def test_vectors_equal_sentence_transformers(places: dict[str, Path]) -> None:
    loaded = SentenceTransformer(str(places["two"]), device="cpu")
    theirs = loaded.encode(TEXTS)
    assert theirs.shape == (5, 8)
    assert close(rest(places["two"], similarity="dot").embed(TEXTS, "query"), theirs)
    assert close(rest(places["two"]).embed(TEXTS, "query"), unit(theirs))


def test_overrides_change_the_vectors_as_they_should(places: dict[str, Path]) -> None:
    folder = places["mean"]
    prefixed = load(folder, query_prefix="lo mu ", passage_prefix="").embed(TEXTS, "query")
    assert close(prefixed, unit(by_hand(folder, ["lo mu " + text for text in TEXTS], "mean", 24)))
    bare = load(folder, passage_prefix="").embed(TEXTS, "passage")
    assert close(bare, unit(by_hand(folder, TEXTS, "mean", 24)))
    short = load(folder, passage_prefix="", max_length=5).embed(TEXTS, "passage")
    assert close(short, unit(by_hand(folder, TEXTS, "mean", 5)))
    assert close(short[:1], bare[:1]) and not close(short[1:2], bare[1:2]), "only what is longer changes"
    first = load(folder, passage_prefix="", pooling="cls").embed(TEXTS, "passage")
    assert close(first, unit(by_hand(folder, TEXTS, "cls", 24)))


def test_the_order_of_texts_is_kept_across_batches(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": 30})
    texts, told = [" ".join(["ba", "da", "fe"][: 1 + n % 3]) + " lo" * (n * 7 % 11) for n in range(20)], list[int]()
    found = rest(places["silent"])
    alone = np.concatenate([found.embed([text], "passage") for text in texts])
    assert close(found.embed(texts, "passage", told.append), alone)
    assert sum(told) == 20 and len(told) > 6


def test_roberta_counts_its_positions_behind_the_padding(places: dict[str, Path]) -> None:
    found = rest(places["roberta"], pooling="mean")
    assert said(found)["max_length"] == (48, "the model's positions; its files say 50")
    assert found.embed(["ba " * 200], "passage").shape == (1, 32)
    assert said(rest(places["roberta"], pooling="mean", max_length=48))["max_length"] == (48, "--max-length")
    with pytest.raises(
        RetrobenchError, match=r"--max-length is 49, and the model '.*roberta' takes 48 tokens\. Set it"
    ):
        rest(places["roberta"], pooling="mean", max_length=49)


def test_the_key_is_of_what_is_loaded(places: dict[str, Path], copied: Callable[[str], Path]) -> None:
    folder, key = copied("mean"), rest(places["mean"]).key
    (folder / "README.md").write_text("new")
    (folder / "onnx").mkdir()
    published.write(folder / "onnx" / "config.json", {})
    assert load(folder).key == key
    published.change(folder / "sentence_bert_config.json", max_seq_length=20)
    assert load(folder).key != key


def test_the_recipe_of_a_query_does_not_hang_on_the_passages_prompt(places: dict[str, Path]) -> None:
    one, other = rest(places["mean"]), rest(places["mean"], passage_prefix="lo ")
    assert one.recipe("query") == other.recipe("query") and one.recipe("passage") != other.recipe("passage")
    assert one.recipe("query")["prefix"] == "ba da: "


def test_choices_that_do_not_exist_or_do_not_fit(places: dict[str, Path]) -> None:
    with pytest.raises(RetrobenchError, match=r"Unknown --pooling 'average'\..* Known: cls, lasttoken, max, mean,"):
        rest(places["bare"], pooling="average")
    with pytest.raises(RetrobenchError, match=r"Unknown --similarity 'cosine'\. Did you mean 'cos'\? Known: cos, dot"):
        rest(places["mean"], similarity="cosine")
    with pytest.raises(RetrobenchError, match=r"--max-length is 65, and the model '.*mean' takes 64 tokens"):
        rest(places["mean"], max_length=65)
    with pytest.raises(RetrobenchError, match=r"'.*two' joins several poolings"):
        rest(places["two"], pooling="cls")


def test_fewer_bits_are_asked_for(places: dict[str, Path]) -> None:
    """bfloat16 is a setting with its source; float16 is not computed in on a CPU."""
    texts = [text for _, text in pairs(20)]
    found = rest(places["bare"], pooling="cls", dtype="bfloat16")
    assert said(found)["dtype"] == ("bfloat16", "--dtype") and found.recipe("query")["dtype"] == "bfloat16"
    exact = rest(places["bare"], pooling="cls").embed(texts, "query")
    vectors = found.embed(texts, "query")
    assert vectors.dtype == np.float32 and 0 < np.abs(vectors - exact).max() < 0.05
    with pytest.raises(RetrobenchError, match=r"--dtype is float16, in which a CPU is thousands of times slower\."):
        rest(places["bare"], pooling="cls", dtype="float16")
    with pytest.raises(RetrobenchError, match=r"Unknown --dtype 'bf16'"):
        rest(places["bare"], pooling="cls", dtype="bf16")


def test_a_model_that_is_always_float32_is_not_said_to_be_anything_else(tmp_path: Path) -> None:
    """A StaticEmbedding is loaded without heed of the type that is asked for."""
    folder = published.static(tmp_path / "static")
    assert said(load(folder))["dtype"][0] == said(load(folder, dtype="float32"))["dtype"][0] == "float32"
    text = (
        r"--dtype is bfloat16, and the numbers of model '.*static' are float32 whatever is asked for\. Leave it out\."
    )
    with pytest.raises(RetrobenchError, match=text):
        load(folder, dtype="bfloat16")


# What is written.


def pairs(count: int) -> list[tuple[str, str]]:
    return [(f"d{n}", "ba " * (n % 7) + ("da", "fe", "lo")[n % 3]) for n in range(count)]


def test_rows_are_written_in_order_with_their_names(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "WINDOW", 8)
    found, told = rest(places["mean"]), list[int]()
    assert found.write(tmp_path, iter(pairs(21)), 21, "passage", told.append) == {"texts": 21.0}
    vectors = Vectors.open(tmp_path)
    assert sum(told) == 21 and {file.name for file in tmp_path.iterdir()} == {"manifest.json", "ids.json", "dense.npy"}
    assert close(vectors.dense(0, 21), found.embed([text for _, text in pairs(21)], "passage"))
    assert vectors.ids == [f"d{n}" for n in range(21)]


class Stop(Exception):
    """What ends an attempt early."""


@pytest.mark.parametrize("left", [0, 7, 8, 11, 16])
def test_an_interrupted_attempt_is_taken_up(
    left: int, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many texts: whole windows count, and the end is the same, byte for byte."""
    monkeypatch.setattr(embedding, "WINDOW", 8)
    found = rest(places["mean"])
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    found.write(tmp_path / "whole", pairs(21), 21, "passage", lambda n: None)

    def broken() -> Iterator[tuple[str, str]]:
        yield from pairs(21)[:left]
        raise Stop

    with pytest.raises(Stop):
        found.write(tmp_path / "broken", broken(), 21, "passage", lambda n: None)
    told: list[int] = []
    found.write(tmp_path / "broken", iter(pairs(21)), 21, "passage", told.append)
    assert told[0] == left // 8 * 8 and sum(told) == 21
    whole, again = ({file.name: file.read_bytes() for file in (tmp_path / n).iterdir()} for n in ("whole", "broken"))
    assert whole == again


@pytest.mark.parametrize("name", ["mean", "bare", "silent", "roberta", "two"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_batches_by_tokens_give_the_librarys_own_vectors(
    name: str, kind: Kind, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pooling, [CLS] alone in the last layer among it; a model that is not known goes by the library."""
    choices = {"pooling": "cls"} if name in ("bare", "roberta") else {}
    found, texts = rest(places[name], **choices), [text for _, text in pairs(40)]
    run = found.model.encode_query if kind == "query" else found.model.encode_document
    prompt = str(found.recipe(kind)["prefix"])
    theirs = run(texts, prompt=prompt, show_progress_bar=False, normalize_embeddings=found.forward(kind).unit)
    ours = found.embed(texts, kind)
    assert np.abs(np.asarray(theirs) - ours).max() < 1e-5 and len(np.unique(ours.round(3), axis=0)) > 10
    assert isinstance(found.forward(kind).window(texts), Tokenised)
    monkeypatch.setattr(Forward, "_is_plain", lambda self: False)
    assert isinstance(found.forward(kind).window(texts), Whole)
    assert np.abs(found.embed(texts, kind) - ours).max() < 1e-5


def test_only_cls_pooling_spares_the_last_layer(places: dict[str, Path]) -> None:
    for mode, spared in (("cls", True), ("mean", False), ("max", False), ("lasttoken", False)):
        assert rest(places["bare"], pooling=mode).forward("query")._reads_first_only() is spared
    assert not rest(places["two"]).forward("query")._reads_first_only()
    found = rest(places["bare"], pooling="cls")
    pooling: Any = found.model[1]
    pooling.include_prompt = False  # [CLS] then belongs to the prompt, and the next token is read
    assert not found.forward("query")._reads_first_only()


@pytest.mark.parametrize(("there", "announced"), [(5, 6), (6, 5), (0, 0)])
def test_count_in_is_count_out(there: int, announced: int, places: dict[str, Path], tmp_path: Path) -> None:
    text = f"{announced} texts \\(query\\) were announced and {there} read: the collection's files are cut short"
    with pytest.raises(RetrobenchError, match=text):
        rest(places["mean"]).write(tmp_path, pairs(there), announced, "query", lambda n: None)


def test_a_vector_that_is_not_finite_names_its_text(
    places: dict[str, Path], copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("silent")
    weights = load_file(folder / "model.safetensors")
    bad = tiny.tokenizer().convert_tokens_to_ids("lo")
    weights["bert.embeddings.word_embeddings.weight"][bad] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        RetrobenchError, match=r"gives passage 'd2' a vector that is not finite \(of the 9 read with it, 3\)"
    ):
        load(folder).write(tmp_path, pairs(9), 9, "passage", lambda n: None)
