"""How an encoder is run: what its files say, what the command line says instead, and which of the two holds."""

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
# What each file says of the length, in the order in which sentence-transformers heeds them.
LENGTHS = {
    "sentence_bert_config.json": "max_seq_length",
    "tokenizer_config.json": "model_max_length",
    "config.json": "max_position_embeddings",
}


@dataclass(frozen=True)
class Choices:
    """What stands in place of what the model's files say; None leaves them their word."""

    pooling: str | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_length: int | None = None
    similarity: str | None = None
    dtype: str | None = None

    def check(self) -> None:
        """RetrobenchError for a value that does not exist."""
        if self.pooling is not None and self.pooling not in POOLING:
            raise unknown("--pooling", self.pooling, POOLING)
        if self.similarity is not None and self.similarity not in SIMILARITIES:
            raise unknown("--similarity", self.similarity, SIMILARITIES)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise unknown("--dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class Setting:
    """A value and where it comes from: a file of the model, an option, or a default."""

    value: str | int | bool | None
    source: str


@dataclass(frozen=True)
class Settings:
    """How an encoder is run. `max_length` is in tokens, and None where nothing is cut."""

    pooling: Setting
    normalize: Setting
    query_prefix: Setting
    passage_prefix: Setting
    max_length: Setting
    similarity: Setting
    dtype: Setting

    def values(self) -> dict[str, str | int | bool | None]:
        """Name -> value."""
        return {field.name: getattr(self, field.name).value for field in fields(self)}

    def lines(self) -> list[tuple[str, str, str]]:
        """Name, value as text and source of each, to be printed."""
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, _shown(setting.value), setting.source) for name, setting in named]


def _shown(value: str | int | bool | None) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return repr(value) if value == "" or str(value) != str(value).strip() else str(value)


def settle(files: Files, choices: Choices, model: SentenceTransformer, dtype: str) -> Settings:
    """Make `model` what `choices` say, and give what then holds; `dtype` says where the type of its numbers is from."""
    said = read_json(files.folder / CONFIG) if files.modules is not None else {}
    queries = _prompt(said, ("query",))
    passages = _prompt(said, ("document", "passage", "corpus"))
    return Settings(
        pooling=_pooling(files, choices, model),
        normalize=_normalize(files, model),
        query_prefix=_or(choices.query_prefix, "--query-prefix", queries),
        passage_prefix=_or(choices.passage_prefix, "--passage-prefix", passages),
        max_length=_max_length(files, choices, model),
        similarity=_similarity(files, choices, said, model),
        dtype=_numbers(files, choices, model, dtype),
    )


def _or(chosen: str | None, option: str, otherwise: Setting) -> Setting:
    return otherwise if chosen is None else Setting(chosen, option)


def _numbers(files: Files, choices: Choices, model: SentenceTransformer, source: str) -> Setting:
    kind = str(model.dtype).removeprefix("torch.")
    if choices.dtype not in (None, kind):
        raise RetrobenchError(
            f"--dtype is {choices.dtype}, and the numbers of model {files.name!r} are {kind} whatever is asked for. "
            "Leave it out."
        )
    return Setting(kind, source)


def _pooling(files: Files, choices: Choices, model: SentenceTransformer) -> Setting:
    from sentence_transformers.sentence_transformer.modules import Pooling

    found = [module for module in model.modules() if isinstance(module, Pooling)]
    if choices.pooling is None:
        modes = {"+".join([p.pooling_mode] if isinstance(p.pooling_mode, str) else p.pooling_mode) for p in found}
        place = files.holding("Pooling")
        return Setting(", ".join(sorted(modes)) or None, f"{place}/config.json" if place else "modules.json")
    for pooling in found:
        if pooling.pooling_output_dimension != pooling.embedding_dimension:
            raise RetrobenchError(
                f"Model {files.name!r} joins several poolings, and what follows them expects that width; "
                "leave --pooling out."
            )
        pooling.pooling_mode = choices.pooling
    if not found:
        raise RetrobenchError(f"Model {files.name!r} has no pooling that --pooling could change; leave it out.")
    return Setting(choices.pooling, "--pooling")


def _normalize(files: Files, model: SentenceTransformer) -> Setting:
    from sentence_transformers.sentence_transformer.modules import Normalize

    found = any(isinstance(module, Normalize) for module in model.modules())
    return Setting(found, "default" if files.modules is None else "modules.json")


def _prompt(said: dict[str, Any], names: tuple[str, ...]) -> Setting:
    """The first prompt of these names that is not empty: sentence-transformers writes empty ones of its own accord."""
    prompts = said.get("prompts") or {}
    for name in names:
        if prompts.get(name):
            return Setting(str(prompts[name]), f"{CONFIG}, prompt {name!r}")
    if any(name in prompts for name in names):
        return Setting("", CONFIG)
    default = said.get("default_prompt_name")
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
    said = model.max_seq_length
    # transformers' word for no limit is a number of thirty digits.
    length = None if said is None or not said < 10**9 else int(said)
    if positions is not None and (length is None or length > positions):
        model.max_seq_length = positions
        return Setting(positions, f"the model's positions; its files say {length or 'nothing'}")
    place = files.folder / files.holding("Transformer")
    sources = (file for file, key in LENGTHS.items() if read_json(place / file).get(key) == length)
    return Setting(length, "default" if length is None else next(sources, "sentence-transformers"))


def _positions(model: SentenceTransformer) -> int | None:
    """How many tokens the model takes; None where it counts no positions."""
    from torch.nn import Embedding

    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, Embedding):
            # RoBERTa's and its kin's table starts behind the padding id.
            padding = getattr(module, "padding_idx", None)
            return int(table.num_embeddings) - (padding + 1 if isinstance(padding, int) else 0)
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _similarity(files: Files, choices: Choices, said: dict[str, Any], model: SentenceTransformer) -> Setting:
    if choices.similarity is not None:
        return Setting(choices.similarity, "--similarity")
    ours = {theirs: name for name, theirs in SIMILARITIES.items()}
    name = model.similarity_fn_name  # cosine where nothing is said
    if name not in ours:
        raise RetrobenchError(
            f"Model {files.name!r} compares by {name!r} distance, which is not searched here. "
            "Choose --similarity dot or cos."
        )
    source = CONFIG if said.get("similarity_fn_name") == name else "default of sentence-transformers"
    return Setting(ours[name], source)
