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


def ignore(count: int) -> None:
    """Take a number of finished rows without reporting it."""


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
    assert settings["query_prefix"] == ("", "default")
    assert settings["passage_prefix"] == ("", "default")
    theirs = SentenceTransformer(str(models["silent"]))
    assert theirs.similarity_fn_name == "cosine"


def test_settings_of_a_plain_model_are_defaults(models: dict[str, Path]) -> None:
    settings = sources(load_once(models["bare"], pooling="cls"))
    assert settings["pooling"] == ("cls", "--pooling")
    assert settings["normalize"] == (False, "default")
    assert settings["similarity"] == ("cos", "default of sentence-transformers")
    assert settings["max_length"] == (published.POSITIONS, "config.json")


def test_joined_poolings_are_named_together(models: dict[str, Path]) -> None:
    settings = sources(load_once(models["two"]))
    assert settings["pooling"] == ("cls+mean", "1_Pooling/config.json")


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


# Prompts, the default prompt's name, the prefix of queries, the prefix of passages.
PREFIXES: list[tuple[dict[str, str], str | None, str, str]] = [
    ({"query": "q ", "document": "d ", "passage": "p "}, None, "q ", "d "),
    ({"query": "q ", "document": "", "corpus": "c "}, None, "q ", "c "),  # the library writes an empty prompt
    ({"query": "q "}, None, "q ", ""),
    ({"any": "a "}, "any", "a ", "a "),
    ({"query": "q ", "any": "a "}, "any", "q ", "a "),
    ({"query": "", "document": "", "any": "a "}, "any", "", ""),
    ({}, None, "", ""),
]


@pytest.mark.parametrize(("prompts", "default", "query", "passage"), PREFIXES)
def test_the_first_prompt_in_use_is_the_prefix(
    prompts: dict[str, str], default: str | None, query: str, passage: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("mean")
    published.change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    values = load(folder).settings.values()
    assert values["query_prefix"] == query
    assert values["passage_prefix"] == passage


def test_a_model_saved_by_sentence_transformers_is_read_back(models: dict[str, Path], tmp_path: Path) -> None:
    SentenceTransformer(str(models["mean"])).save(str(tmp_path))
    encoder = load(tmp_path)
    assert encoder.settings.values() == load_once(models["mean"]).settings.values()
    assert sources(encoder)["max_length"] == (24, "tokenizer_config.json")


def test_settings_are_printed_as_texts(models: dict[str, Path]) -> None:
    encoder = load_once(models["silent"], query_prefix="q: ")
    values = {}
    for name, value, _ in encoder.settings.lines():
        values[name] = value
    assert values["query_prefix"] == "'q: '"
    assert values["passage_prefix"] == "''"
    assert values["normalize"] == "yes"
    assert values["max_length"] == "24"
    assert values["pooling"] == "mean"


# Vectors.


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


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference of two numbers."""
    return float(np.abs(ours - theirs).max())


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert difference(ours, theirs) < 1e-5


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
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": 30})
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


def test_roberta_counts_its_positions_behind_the_padding(models: dict[str, Path]) -> None:
    encoder = load_once(models["roberta"], pooling="mean")
    assert sources(encoder)["max_length"] == (48, "the model's positions; its files say 50")
    vectors = encoder.embed(["ba " * 200], "passage")
    assert vectors.shape == (1, 32)
    longest = load_once(models["roberta"], pooling="mean", max_length=48)
    assert sources(longest)["max_length"] == (48, "--max-length")
    text = r"--max-length is 49, and the model '.*roberta' takes 48 tokens\. Set it"
    with pytest.raises(RetrobenchError, match=text):
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


# Model, choices, message.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("bare", {"pooling": "average"}, r"Unknown --pooling 'average'\..* Known: cls, lasttoken, max, mean,"),
    ("mean", {"similarity": "cosine"}, r"Unknown --similarity 'cosine'\. Did you mean 'cos'\? Known: cos, dot"),
    ("mean", {"max_length": 65}, r"--max-length is 65, and the model '.*mean' takes 64 tokens"),
    ("two", {"pooling": "cls"}, r"'.*two' joins several poolings"),
    ("silent", {"dtype": "bf16"}, r"Unknown --dtype 'bf16'"),
    ("silent", {"dtype": "float16"}, r"--dtype is float16, in which a CPU is thousands of times slower\."),
]


@pytest.mark.parametrize(("name", "choices", "text"), REFUSED)
def test_choices_that_do_not_exist_or_do_not_fit(
    name: str, choices: dict[str, Any], text: str, models: dict[str, Path]
) -> None:
    with pytest.raises(RetrobenchError, match=text):
        load_once(models[name], **choices)


def test_the_vectors_of_bfloat16_differ_a_little(models: dict[str, Path]) -> None:
    encoder = load_once(models["bare"], pooling="cls", dtype="bfloat16")
    assert sources(encoder)["dtype"] == ("bfloat16", "--dtype")
    assert encoder.recipe("query")["dtype"] == "bfloat16"
    texts = texts_of(20)
    exact = load_once(models["bare"], pooling="cls").embed(texts, "query")
    vectors = encoder.embed(texts, "query")
    assert vectors.dtype == np.float32
    assert 0 < difference(vectors, exact) < 0.05


def test_a_model_that_is_always_float32_is_not_said_to_be_anything_else(tmp_path: Path) -> None:
    """A StaticEmbedding ignores the chosen type."""
    folder = published.static(tmp_path / "static")
    for encoder in (load(folder), load(folder, dtype="float32")):
        assert encoder.settings.values()["dtype"] == "float32"
    text = (
        r"--dtype is bfloat16, and the numbers of model '.*static' are float32 whatever is asked for\. Leave it out\."
    )
    with pytest.raises(RetrobenchError, match=text):
        load(folder, dtype="bfloat16")


# Files.


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
