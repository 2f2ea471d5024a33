"""The folder of a published encoder: found, downloaded if need be, and refused where it cannot be run as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import tree_hash
from retrobench.data import MODELS, shipped_folder
from retrobench.errors import RetrobenchError

__all__ = ["Files", "find", "read_json"]

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
OTHERS = ("onnx/*", "openvino/*")  # the same model again, for engines that are not used here


@dataclass(frozen=True)
class Files:
    """A model's folder; `modules` are path and type of each line of its modules.json, None where it has none."""

    name: str
    folder: Path
    modules: tuple[tuple[str, str], ...] | None

    @classmethod
    def of(cls, name: str) -> Files:
        """
        The files of a folder or hub id, downloaded unless they are there.

        RetrobenchError where they are not those of a dense encoder in safetensors that runs without code of its own.
        """
        files = cls(name, folder := find(name), _modules(name, folder))
        files._check_kind()
        for place in files.places():
            files._check_place(place)
        return files

    def places(self) -> Iterator[Path]:
        """The folders that the model is loaded from."""
        for inner, _ in self.modules or (("", ""),):
            yield self.folder / inner
            if inner:  # a router keeps the modules of each of its routes in folders of their own
                yield from (place for place in (self.folder / inner).rglob("*") if place.is_dir())

    def holding(self, kind: str) -> str:
        """Where modules.json puts the first module of a type, such as `1_Pooling`; empty for the folder itself."""
        return next((inner for inner, type in self.modules or () if type.rpartition(".")[2] == kind), "")

    def lists(self, kind: str) -> bool:
        """Whether modules.json has a module of that type."""
        return any(type.rpartition(".")[2] == kind for _, type in self.modules or ())

    def key(self) -> str:
        """A hash over all that is loaded."""
        places = {self.folder, *self.places()}
        return tree_hash({file for place in places for pattern in PATTERNS for file in place.glob(pattern)})

    def _check_kind(self) -> None:
        kind = read_json(self.folder / "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
        if self.modules is not None and kind != "SentenceTransformer":
            # sentence-transformers would run it all the same: mean pooling over what was trained for something else.
            raise RetrobenchError(
                f"Model {self.name!r} is a {kind}, and only encoders that give one dense vector for each text can be "
                "evaluated. Choose a SentenceTransformer model."
            )

    def _check_place(self, place: Path) -> None:
        name = self.name if place == self.folder else f"{self.name} ({place.relative_to(self.folder)})"
        config = read_json(place / "config.json")
        if "auto_map" in config:
            raise RetrobenchError(
                f"Model {name!r} comes with code of its own (auto_map in config.json), and no model's code is run. "
                "Choose a model of an architecture that transformers has."
            )
        if (place / "adapter_config.json").exists():
            raise RetrobenchError(
                f"Model {name!r} is an adapter to another model. Merge it into that model with peft's "
                "merge_and_unload, save the result with save_pretrained, and give that folder."
            )
        activation = str(config.get("activation_function", "torch."))
        if not activation.startswith("torch.") and "out_features" in config:
            # sentence-transformers would put Tanh in its place.
            raise RetrobenchError(f"Model {name!r} asks for the activation {activation!r}, which is not torch's.")
        pickled = [*place.glob("*.bin"), *place.glob("*.pt")]
        if (pickled or "model_type" in config) and not list(place.glob("*.safetensors")):
            raise RetrobenchError(
                f"Model {name!r} holds no safetensors, and nothing pickled is loaded. "
                "Convert it with save_pretrained first, and give the folder that this writes."
            )
        if self.modules is None and "model_type" not in config:
            raise RetrobenchError(
                f"Model {name!r} has neither modules.json nor a config.json with model_type; give the folder of a "
                "sentence-transformers or a transformers model."
            )


def find(name: str) -> Path:
    """The folder of that name, else the hub's snapshot of it, which is downloaded unless HF_HUB_OFFLINE is set."""
    if name in MODELS:
        return shipped_folder(MODELS[name])
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS), ignore_patterns=list(OTHERS)))
    except Exception as error:  # a wrong id, no network and no permission all come as types of their own
        reason = str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__
        raise RetrobenchError(
            f"Model {name!r} is neither a folder, nor one of {', '.join(MODELS)}, nor to be had from the hub "
            f"({reason}). Check the name, or download it and give the folder."
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file, empty where there is no file. RetrobenchError where it holds something else."""
    found = _json(file)
    if not isinstance(found, dict | None):
        raise RetrobenchError(f"{file} is not a JSON object; fetch the model again.")
    return found or {}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (ValueError, OSError) as error:
        raise RetrobenchError(f"{file} cannot be read as JSON ({error}); fetch the model again.") from error


def _modules(name: str, folder: Path) -> tuple[tuple[str, str], ...] | None:
    listed = _json(folder / "modules.json")
    if listed is None:
        return None
    try:
        modules = tuple((str(entry["path"]), str(entry["type"])) for entry in listed)
    except (TypeError, LookupError) as error:
        raise RetrobenchError(f"{folder / 'modules.json'} lists no path and type; fetch the model again.") from error
    for inner, type in modules:
        if Path(inner).is_absolute() or ".." in Path(inner).parts:
            raise RetrobenchError(f"{folder / 'modules.json'} names a place outside the model, {inner!r}.")
        if not type.startswith("sentence_transformers."):
            raise RetrobenchError(
                f"Model {name!r} comes with code of its own ({type} in modules.json), and no model's code is run. "
                "Choose a model made of sentence-transformers' modules."
            )
    return modules
