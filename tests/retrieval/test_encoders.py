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


load_once = functools.cache(load)  # for a model that no test changes


def sources(encoder: PublishedEncoder) -> dict[str, tuple[str | int | bool | None, str]]:
    """Return the value and the source of each setting."""
    result = {}
    for name in encoder.settings.values():
        setting = getattr(encoder.settings, name)
        result[name] = (setting.value, setting.source)
    return result


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
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
def copied(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a model, which may then be changed, to a folder called `model`."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "model"))


# Settings.


def test_settings_are_those_of_the_files(models: dict[str, Path]) -> None:
    config = "config_sentence_transformers.json"
    assert sources(load_once(models["mean"])) == {
        "pooling": ("mean", "1_Pooling/config.json"),
        "normalize": (True, "modules.json"),
        "query_prefix": ("ba da: ", f"{config}, prompt 'query'"),
        "passage_prefix": ("fe ge: ", f"{config}, prompt 'passage'"),
        "max_length": (24, "sentence_bert_config.json"),
        "similarity": ("dot", config),
        "dtype": ("float32", "default on a CPU"),
    }


def test_settings_that_the_files_lack_are_sentence_transformers_defaults(models: dict[str, Path]) -> None:
    settings = sources(load_once(models["silent"]))
    assert settings["similarity"] == ("cos", "default of sentence-transformers")
    assert settings["query_prefix"] == settings["passage_prefix"] == ("", "default")
    assert SentenceTransformer(str(models["silent"])).similarity_fn_name == "cosine"
    settings = sources(load_once(models["bare"], pooling="cls"))
    assert settings["pooling"] == ("cls", "--pooling")
    assert settings["normalize"] == (False, "default")
    assert settings["similarity"] == ("cos", "default of sentence-transformers")
    assert settings["max_length"] == (published.POSITIONS, "config.json")
    assert sources(load_once(models["two"]))["pooling"] == ("cls+mean", "1_Pooling/config.json")


def test_options_come_before_files(models: dict[str, Path]) -> None:
    encoder = load_once(
        models["mean"], pooling="max", query_prefix="", passage_prefix="lo ", max_length=9, similarity="cos"
    )
    settings = sources(encoder)
    del settings["normalize"], settings["dtype"]
    assert settings == {
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
def test_the_first_prompt_in_use_is_the_prefix(
    prompts: dict[str, str], default: str | None, query: str, passage: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("mean")
    published.change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    values = load(folder).settings.values()
    assert (values["query_prefix"], values["passage_prefix"]) == (query, passage)


def test_a_model_saved_by_sentence_transformers_is_read_back(models: dict[str, Path], tmp_path: Path) -> None:
    SentenceTransformer(str(models["mean"])).save(str(tmp_path))
    encoder = load(tmp_path)
    assert encoder.settings.values() == load_once(models["mean"]).settings.values()
    assert sources(encoder)["max_length"] == (24, "tokenizer_config.json")


def test_settings_are_printed_as_texts(models: dict[str, Path]) -> None:
    shown = {name: value for name, value, _ in load_once(models["silent"], query_prefix="q: ").settings.lines()}
    assert shown["query_prefix"] == "'q: '" and shown["passage_prefix"] == "''"
    assert (shown["normalize"], shown["max_length"], shown["pooling"]) == ("yes", "24", "mean")


# Vectors.


def by_hand(folder: Path, texts: list[str], pooling: str, length: int) -> np.ndarray:
    """Return the mean or the first of the last hidden states of each text, tokenised alone and so without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inner = AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden = inner(ids).last_hidden_state[0]
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    return torch.stack(rows).numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.shape == theirs.shape and ours.dtype == np.float32 and bool(np.abs(ours - theirs).max() < 1e-5)


def test_a_tokenizer_that_adds_nothing_to_a_text(models: dict[str, Path], copied: Callable[[str], Path]) -> None:
    """An empty text then has no token, so it cannot show the width of vectors."""
    folder = copied("mean")
    tiny.tokenizer().save_pretrained(folder)
    encoder = load(folder, passage_prefix="")
    (folder / "vectors").mkdir()
    encoder.write(folder / "vectors", pairs(3), 3, "passage", lambda n: None)
    assert encoder.width == published.WIDTH == Vectors.open(folder / "vectors").width
    assert load_once(models["two"]).width == 8


def test_a_model_without_a_width_of_its_own(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentenceTransformer, "get_embedding_dimension", lambda self: None)
    assert load_once(models["two"]).width == 8


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_plain_encoder_is_pooled_as_asked(pooling: str, models: dict[str, Path]) -> None:
    hidden = by_hand(models["bare"], TEXTS, pooling, published.POSITIONS)
    assert close(load_once(models["bare"], pooling=pooling, similarity="dot").embed(TEXTS, "passage"), hidden)
    assert close(load_once(models["bare"], pooling=pooling).embed(TEXTS, "passage"), unit(hidden))
    assert abs(np.linalg.norm(hidden, axis=1) - 1).min() > 0.5, "cos and dot differ here"


def test_prompts_length_and_normalisation_are_applied(models: dict[str, Path]) -> None:
    encoder = load_once(models["mean"])
    queries = by_hand(models["mean"], ["ba da: " + text for text in TEXTS], "mean", 24)
    passages = by_hand(models["mean"], ["fe ge: " + text for text in TEXTS], "mean", 24)
    assert close(encoder.embed(TEXTS, "query"), unit(queries)) and close(
        encoder.embed(TEXTS, "passage"), unit(passages)
    )


def test_vectors_equal_sentence_transformers(models: dict[str, Path]) -> None:
    loaded = SentenceTransformer(str(models["two"]), device="cpu")
    theirs = loaded.encode(TEXTS)
    assert theirs.shape == (5, 8)
    assert close(load_once(models["two"], similarity="dot").embed(TEXTS, "query"), theirs)
    assert close(load_once(models["two"]).embed(TEXTS, "query"), unit(theirs))


def test_overrides_change_the_vectors_as_they_should(models: dict[str, Path]) -> None:
    folder = models["mean"]
    prefixed = load(folder, query_prefix="lo mu ", passage_prefix="").embed(TEXTS, "query")
    assert close(prefixed, unit(by_hand(folder, ["lo mu " + text for text in TEXTS], "mean", 24)))
    bare = load(folder, passage_prefix="").embed(TEXTS, "passage")
    assert close(bare, unit(by_hand(folder, TEXTS, "mean", 24)))
    short = load(folder, passage_prefix="", max_length=5).embed(TEXTS, "passage")
    assert close(short, unit(by_hand(folder, TEXTS, "mean", 5)))
    assert close(short[:1], bare[:1]) and not close(short[1:2], bare[1:2]), "only what is longer changes"
    first = load(folder, passage_prefix="", pooling="cls").embed(TEXTS, "passage")
    assert close(first, unit(by_hand(folder, TEXTS, "cls", 24)))


def test_the_order_of_texts_is_kept_across_batches(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": 30})
    texts = ["ba " * (1 + n % 3) + "lo " * (n * 7 % 11) for n in range(20)]
    reported = list[int]()
    encoder = load_once(models["silent"])
    alone = np.concatenate([encoder.embed([text], "passage") for text in texts])
    assert close(encoder.embed(texts, "passage", reported.append), alone)
    assert sum(reported) == 20 and len(reported) > 6


def test_roberta_counts_its_positions_behind_the_padding(models: dict[str, Path]) -> None:
    encoder = load_once(models["roberta"], pooling="mean")
    assert sources(encoder)["max_length"] == (48, "the model's positions; its files say 50")
    assert encoder.embed(["ba " * 200], "passage").shape == (1, 32)
    assert sources(load_once(models["roberta"], pooling="mean", max_length=48))["max_length"] == (48, "--max-length")
    with pytest.raises(
        RetrobenchError, match=r"--max-length is 49, and the model '.*roberta' takes 48 tokens\. Set it"
    ):
        load_once(models["roberta"], pooling="mean", max_length=49)


def test_the_key_hashes_the_loaded_files(models: dict[str, Path], copied: Callable[[str], Path]) -> None:
    key = load_once(models["mean"]).key
    folder = copied("mean")
    (folder / "README.md").write_text("new")
    (folder / "onnx").mkdir()
    published.write(folder / "onnx" / "config.json", {})
    assert load(folder).key == key
    published.change(folder / "sentence_bert_config.json", max_seq_length=20)
    assert load(folder).key != key


def test_a_query_recipe_does_not_depend_on_the_passage_prefix(models: dict[str, Path]) -> None:
    plain = load_once(models["mean"])
    prefixed = load_once(models["mean"], passage_prefix="lo ")
    assert plain.recipe("query") == prefixed.recipe("query")
    assert plain.recipe("passage") != prefixed.recipe("passage")
    assert plain.recipe("query")["prefix"] == "ba da: "


def test_choices_that_do_not_exist_or_do_not_fit(models: dict[str, Path]) -> None:
    with pytest.raises(RetrobenchError, match=r"Unknown --pooling 'average'\..* Known: cls, lasttoken, max, mean,"):
        load_once(models["bare"], pooling="average")
    with pytest.raises(RetrobenchError, match=r"Unknown --similarity 'cosine'\. Did you mean 'cos'\? Known: cos, dot"):
        load_once(models["mean"], similarity="cosine")
    with pytest.raises(RetrobenchError, match=r"--max-length is 65, and the model '.*mean' takes 64 tokens"):
        load_once(models["mean"], max_length=65)
    with pytest.raises(RetrobenchError, match=r"'.*two' joins several poolings"):
        load_once(models["two"], pooling="cls")


def test_bfloat16_is_a_choice_and_float16_is_refused_on_a_cpu(models: dict[str, Path]) -> None:
    """The vectors of bfloat16 differ a little, and its setting names the option."""
    texts = [text for _, text in pairs(20)]
    encoder = load_once(models["bare"], pooling="cls", dtype="bfloat16")
    assert sources(encoder)["dtype"] == ("bfloat16", "--dtype") and encoder.recipe("query")["dtype"] == "bfloat16"
    exact = load_once(models["bare"], pooling="cls").embed(texts, "query")
    vectors = encoder.embed(texts, "query")
    assert vectors.dtype == np.float32 and 0 < np.abs(vectors - exact).max() < 0.05
    with pytest.raises(RetrobenchError, match=r"--dtype is float16, in which a CPU is thousands of times slower\."):
        load_once(models["bare"], pooling="cls", dtype="float16")
    with pytest.raises(RetrobenchError, match=r"Unknown --dtype 'bf16'"):
        load_once(models["bare"], pooling="cls", dtype="bf16")


def test_a_model_that_is_always_float32_is_not_said_to_be_anything_else(tmp_path: Path) -> None:
    """A StaticEmbedding ignores the chosen type."""
    folder = published.static(tmp_path / "static")
    assert sources(load(folder))["dtype"][0] == sources(load(folder, dtype="float32"))["dtype"][0] == "float32"
    text = (
        r"--dtype is bfloat16, and the numbers of model '.*static' are float32 whatever is asked for\. Leave it out\."
    )
    with pytest.raises(RetrobenchError, match=text):
        load(folder, dtype="bfloat16")


# Files.


def pairs(count: int) -> list[tuple[str, str]]:
    return [(f"d{n}", "ba " * (n % 7) + ("da", "fe", "lo")[n % 3]) for n in range(count)]


def test_rows_are_written_in_order_with_their_names(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "WINDOW", 8)
    encoder = load_once(models["mean"])
    reported = list[int]()
    assert encoder.write(tmp_path, iter(pairs(21)), 21, "passage", reported.append) == {"texts": 21.0}
    vectors = Vectors.open(tmp_path)
    assert sum(reported) == 21
    assert {file.name for file in tmp_path.iterdir()} == {"manifest.json", "ids.json", "dense.npy"}
    assert close(vectors.dense(0, 21), encoder.embed([text for _, text in pairs(21)], "passage"))
    assert vectors.ids == [f"d{n}" for n in range(21)]


class Stop(Exception):
    """Raised to end an attempt early."""


@pytest.mark.parametrize("read", [0, 7, 8, 11, 16])
def test_an_interrupted_attempt_is_resumed(
    read: int, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished windows are kept, and the files equal those of an unbroken attempt, byte for byte."""
    monkeypatch.setattr(embedding, "WINDOW", 8)
    encoder = load_once(models["mean"])
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    encoder.write(tmp_path / "whole", pairs(21), 21, "passage", lambda n: None)

    def broken() -> Iterator[tuple[str, str]]:
        yield from pairs(21)[:read]
        raise Stop

    with pytest.raises(Stop):
        encoder.write(tmp_path / "broken", broken(), 21, "passage", lambda n: None)
    reported: list[int] = []
    encoder.write(tmp_path / "broken", iter(pairs(21)), 21, "passage", reported.append)
    assert reported[0] == read // 8 * 8 and sum(reported) == 21
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", ["mean", "bare", "silent", "roberta", "two"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_batches_by_tokens_give_the_librarys_own_vectors(
    name: str, kind: Kind, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every pooling, also with [CLS] alone in the last layer, and for a model that only the library can run."""
    choices = {"pooling": "cls"} if name in ("bare", "roberta") else {}
    encoder = load_once(models[name], **choices)
    texts = [text for _, text in pairs(40)]
    run = encoder.model.encode_query if kind == "query" else encoder.model.encode_document
    prompt = str(encoder.recipe(kind)["prefix"])
    theirs = run(texts, prompt=prompt, show_progress_bar=False, normalize_embeddings=encoder.forward(kind).unit)
    ours = encoder.embed(texts, kind)
    assert np.abs(np.asarray(theirs) - ours).max() < 1e-5 and len(np.unique(ours.round(3), axis=0)) > 10
    assert isinstance(encoder.forward(kind).window(texts), Tokenised)
    monkeypatch.setattr(Forward, "_is_plain", lambda self: False)
    assert isinstance(encoder.forward(kind).window(texts), Whole)
    assert np.abs(encoder.embed(texts, kind) - ours).max() < 1e-5


def test_only_cls_pooling_spares_the_last_layer(models: dict[str, Path]) -> None:
    for mode, spared in (("cls", True), ("mean", False), ("max", False), ("lasttoken", False)):
        assert load_once(models["bare"], pooling=mode).forward("query")._reads_first_only() is spared
    assert not load_once(models["two"]).forward("query")._reads_first_only()
    encoder = load_once(models["bare"], pooling="cls")
    pooling: Any = encoder.model[1]
    pooling.include_prompt = False  # [CLS] then belongs to the prompt, and the next token is read
    assert not encoder.forward("query")._reads_first_only()


@pytest.mark.parametrize(("count", "announced"), [(5, 6), (6, 5), (0, 0)])
def test_a_wrong_number_of_texts_is_refused(
    count: int, announced: int, models: dict[str, Path], tmp_path: Path
) -> None:
    text = f"{announced} texts \\(query\\) were announced and {count} read: the collection's files are cut short"
    with pytest.raises(RetrobenchError, match=text):
        load_once(models["mean"]).write(tmp_path, pairs(count), announced, "query", lambda n: None)


def test_a_vector_that_is_not_finite_names_its_text(
    models: dict[str, Path], copied: Callable[[str], Path], tmp_path: Path
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
