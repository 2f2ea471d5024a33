"""How an encoder is run: by its files, unless the command line chooses otherwise."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from retrobench.errors import RetrobenchError, unknown
from retrobench.retrieval.encoders.files import Files, read_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["DTYPES", "POOLING", "SIMILARITIES", "Choices", "Setting", "Settings", "settle"]

POOLING = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
DTYPES = ("float32", "bfloat16", "float16")
SIMILARITIES = {"cos": "cosine", "dot": "dot"}  # ours -> sentence-transformers'
CONFIG = "config_sentence_transformers.json"
# The files that name a length and the key of it, in sentence-transformers' order of precedence.
LENGTHS = {
    "sentence_bert_config.json": "max_seq_length",
    "tokenizer_config.json": "model_max_length",
    "config.json": "max_position_embeddings",
}


@dataclass(frozen=True)
class Choices:
    """Settings that replace those of the model's files. None leaves the file's setting."""

    pooling: str | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_length: int | None = None
    similarity: str | None = None
    dtype: str | None = None

    def check(self) -> None:
        """Raise RetrobenchError for an unknown value, and for float16 without a GPU."""
        if self.pooling is not None and self.pooling not in POOLING:
            raise unknown("--pooling", self.pooling, POOLING)
        if self.similarity is not None and self.similarity not in SIMILARITIES:
            raise unknown("--similarity", self.similarity, SIMILARITIES)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise unknown("--dtype", self.dtype, DTYPES)
        if self.dtype == "float16" and not _has_gpu():
            raise RetrobenchError(
                "--dtype is float16, in which a CPU is thousands of times slower. Take bfloat16 or float32."
            )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class Setting:
    """A value and its source: a file of the model, an option, or a default."""

    value: str | int | bool | None
    source: str


@dataclass(frozen=True)
class Settings:
    """How an encoder is run. `max_length` is in tokens, and None for texts of any length."""

    pooling: Setting
    normalize: Setting
    query_prefix: Setting
    passage_prefix: Setting
    max_length: Setting
    similarity: Setting
    dtype: Setting

    def values(self) -> dict[str, str | int | bool | None]:
        """Return the value of each setting by its name."""
        return {field.name: getattr(self, field.name).value for field in fields(self)}

    def lines(self) -> list[tuple[str, str, str]]:
        """Return the name, the value as text and the source of each setting, for printing."""
        lines = []
        for field in fields(self):
            setting: Setting = getattr(self, field.name)
            lines.append((field.name, _as_text(setting.value), setting.source))
        return lines


def _as_text(value: str | int | bool | None) -> str:
    if value is None:
        return "none"
    if value is True:
        return "yes"
    if value is False:
        return "no"
    text = str(value)
    if text == "" or text != text.strip():
        return repr(value)
    return text


def settle(files: Files, choices: Choices, model: SentenceTransformer, dtype: str) -> Settings:
    """Apply `choices` to `model`, and return its settings. `dtype` is the source of the type of its numbers."""
    config: dict[str, Any] = {}
    if files.modules is not None:
        config = read_json(files.folder / CONFIG)
    query_prompt = _prompt(config, ("query",))
    passage_prompt = _prompt(config, ("document", "passage", "corpus"))
    return Settings(
        pooling=_pooling(files, choices, model),
        normalize=_normalize(files, model),
        query_prefix=_choice_or(choices.query_prefix, "--query-prefix", query_prompt),
        passage_prefix=_choice_or(choices.passage_prefix, "--passage-prefix", passage_prompt),
        max_length=_max_length(files, choices, model),
        similarity=_similarity(files, choices, config, model),
        dtype=_dtype(files, choices, model, dtype),
    )


def _choice_or(choice: str | None, option: str, default: Setting) -> Setting:
    if choice is None:
        return default
    return Setting(choice, option)


def _dtype(files: Files, choices: Choices, model: SentenceTransformer, source: str) -> Setting:
    kind = str(model.dtype).removeprefix("torch.")
    if choices.dtype not in (None, kind):
        raise RetrobenchError(
            f"--dtype is {choices.dtype}, and the numbers of model {files.name!r} are {kind} whatever is asked for. "
            "Leave it out."
        )
    return Setting(kind, source)


def _pooling(files: Files, choices: Choices, model: SentenceTransformer) -> Setting:
    from sentence_transformers.sentence_transformer.modules import Pooling

    poolings = [module for module in model.modules() if isinstance(module, Pooling)]
    if choices.pooling is None:
        modes = {_mode(pooling.pooling_mode) for pooling in poolings}
        source = "modules.json"
        folder = files.path_of("Pooling")
        if folder:
            source = f"{folder}/config.json"
        return Setting(", ".join(sorted(modes)) or None, source)
    if not poolings:
        raise RetrobenchError(f"Model {files.name!r} has no pooling that --pooling could change; leave it out.")
    for pooling in poolings:
        if pooling.pooling_output_dimension != pooling.embedding_dimension:
            raise RetrobenchError(
                f"Model {files.name!r} joins several poolings, and the layers after them expect their joint width; "
                "leave --pooling out."
            )
        pooling.pooling_mode = choices.pooling
    return Setting(choices.pooling, "--pooling")


def _mode(mode: str | tuple[str, ...]) -> str:
    if isinstance(mode, str):
        return mode
    return "+".join(mode)


def _normalize(files: Files, model: SentenceTransformer) -> Setting:
    from sentence_transformers.sentence_transformer.modules import Normalize

    normalizes = any(isinstance(module, Normalize) for module in model.modules())
    if files.modules is None:
        return Setting(normalizes, "default")
    return Setting(normalizes, "modules.json")


def _prompt(config: dict[str, Any], names: tuple[str, ...]) -> Setting:
    """Return the first prompt of these names that is not empty: sentence-transformers writes empty ones by itself."""
    prompts = config.get("prompts") or {}
    for name in names:
        if prompts.get(name):
            return Setting(str(prompts[name]), f"{CONFIG}, prompt {name!r}")
    if any(name in prompts for name in names):
        return Setting("", CONFIG)
    default = config.get("default_prompt_name")
    if default:
        return Setting(str(prompts[default]), f"{CONFIG}, default prompt {default!r}")
    return Setting("", "default")


def _max_length(files: Files, choices: Choices, model: SentenceTransformer) -> Setting:
    positions = _positions(model)
    if choices.max_length is not None:
        if positions is not None and choices.max_length > positions:
            raise RetrobenchError(
                f"--max-length is {choices.max_length}, and the model {files.name!r} takes {positions} tokens. "
                "Set it lower."
            )
        model.max_seq_length = choices.max_length
        return Setting(choices.max_length, "--max-length")
    length = model.max_seq_length
    if length is not None and length >= 10**9:
        length = None  # transformers writes "no limit" as a number of thirty digits
    if length is not None:
        length = int(length)
    if positions is not None and (length is None or length > positions):
        model.max_seq_length = positions
        return Setting(positions, f"the model's positions; its files say {length or 'nothing'}")
    if length is None:
        return Setting(None, "default")
    return Setting(length, _length_source(files, length))


def _length_source(files: Files, length: int) -> str:
    """Return the first file that names this length."""
    folder = files.folder / files.path_of("Transformer")
    for file, key in LENGTHS.items():
        if read_json(folder / file).get(key) == length:
            return file
    return "sentence-transformers"


def _positions(model: SentenceTransformer) -> int | None:
    """Return the number of tokens that the model takes, None if it counts no positions."""
    from torch.nn import Embedding

    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, Embedding):
            padding = getattr(module, "padding_idx", None)
            if isinstance(padding, int):
                # RoBERTa and models like it begin their table after the padding id.
                return int(table.num_embeddings) - (padding + 1)
            return int(table.num_embeddings)
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        return positions
    return None


def _similarity(files: Files, choices: Choices, config: dict[str, Any], model: SentenceTransformer) -> Setting:
    if choices.similarity is not None:
        return Setting(choices.similarity, "--similarity")
    function = model.similarity_fn_name  # cosine by default
    names = [name for name, their_name in SIMILARITIES.items() if their_name == function]
    if not names:
        raise RetrobenchError(
            f"Model {files.name!r} compares by {function!r} distance, which cannot be searched. "
            "Choose --similarity dot or cos."
        )
    if config.get("similarity_fn_name") == function:
        return Setting(names[0], CONFIG)
    return Setting(names[0], "default of sentence-transformers")
