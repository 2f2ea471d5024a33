"""Settings of a published encoder: from its files, from options, and the choices that are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import pytest
from published_models import load, load_once, sources, write_models
from sentence_transformers import SentenceTransformer

from retrobench.errors import RetrobenchError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that no test changes."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a model, which may then be changed, to a folder called `model`."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "model"))


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
