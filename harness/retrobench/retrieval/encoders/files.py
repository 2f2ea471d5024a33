"""The folder of a published encoder: find or download it, and refuse one that cannot be run as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench import core
from retrobench.core import tree_hash
from retrobench.data import MODELS, shipped_folder
from retrobench.errors import RetrobenchError, clip, quote

__all__ = ["MODEL_FILES", "Files", "check_weights", "find", "read_json"]

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
WEIGHTS = "model.safetensors"
IGNORED = ("onnx/*", "openvino/*")  # copies of the model for engines that are not used here


@dataclass(frozen=True)
class Files:
    """A model's folder. `modules` are the path and type of each module in modules.json, None without that file."""

    name: str
    folder: Path
    modules: tuple[tuple[str, str], ...] | None

    @classmethod
    def of(cls, name: str) -> Files:
        """Return the checked files of a folder or hub id, downloaded if need be.

        RetrobenchError for files other than those of a dense encoder in safetensors that runs without code of its own.
        """
        folder = find(name)
        files = cls(name, folder, _modules(name, folder))
        files._check_kind()
        for folder in files.folders():
            files._check_folder(folder)
        return files

    def folders(self) -> Iterator[Path]:
        """Yield the folders that the model is loaded from."""
        if not self.modules:
            yield self.folder
            return
        for module_path, _ in self.modules:
            folder = self.folder / module_path
            yield folder
            if module_path:
                # A router keeps the modules of each of its routes in subfolders.
                yield from (subfolder for subfolder in folder.rglob("*") if subfolder.is_dir())

    def path_of(self, kind: str) -> str:
        """Return the path of the first module of a type, such as `1_Pooling`; empty for the folder itself."""
        for module_path, module_type in self.modules or ():
            if _class_name(module_type) == kind:
                return module_path
        return ""

    def lists(self, kind: str) -> bool:
        """Return whether modules.json has a module of this type."""
        return any(_class_name(module_type) == kind for _, module_type in self.modules or ())

    def key(self) -> str:
        """Return a hash of all files that are loaded."""
        files = set[Path]()
        for folder in {self.folder, *self.folders()}:
            for pattern in MODEL_FILES:
                files.update(folder.glob(pattern))
        return tree_hash(files)

    def _check_kind(self) -> None:
        kind = read_json(self.folder / "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
        if self.modules is not None and kind != "SentenceTransformer":
            # sentence-transformers would run it with mean pooling, which it was not trained for.
            raise RetrobenchError(
                f"Model {self.name!r} is a {kind}, and only encoders that give one dense vector for each text can be "
                "evaluated. Choose a SentenceTransformer model."
            )

    def _check_folder(self, folder: Path) -> None:
        name = self.name
        if folder != self.folder:
            name = f"{self.name} ({folder.relative_to(self.folder)})"
        config = read_json(folder / "config.json")
        self._check_architecture(name, folder, config)
        self._check_weights(name, folder, config)

    def _check_architecture(self, name: str, folder: Path, config: dict[str, Any]) -> None:
        if "auto_map" in config:
            raise RetrobenchError(
                f"Model {name!r} comes with code of its own (auto_map in config.json), and no model's code is run. "
                "Choose a model of an architecture that transformers has."
            )
        if (folder / "adapter_config.json").exists():
            raise RetrobenchError(
                f"Model {name!r} is an adapter to another model. Merge it into that model with peft's "
                "merge_and_unload, save the result with save_pretrained, and give that folder."
            )
        activation = str(config.get("activation_function", "torch."))
        if not activation.startswith("torch.") and "out_features" in config:
            # sentence-transformers would use Tanh instead.
            raise RetrobenchError(f"Model {name!r} asks for the activation {activation!r}, which is not torch's.")

    def _check_weights(self, name: str, folder: Path, config: dict[str, Any]) -> None:
        pickled = [*folder.glob("*.bin"), *folder.glob("*.pt")]
        if (pickled or "model_type" in config) and not list(folder.glob("*.safetensors")):
            raise RetrobenchError(
                f"Model {name!r} holds no safetensors, and nothing pickled is loaded. "
                f"`retrobench convert {self.name} --to FOLDER` makes them; give that folder."
            )
        if self.modules is None and "model_type" not in config:
            raise RetrobenchError(
                f"Model {name!r} has neither modules.json nor a config.json with model_type; give the folder of a "
                "sentence-transformers or a transformers model."
            )


def _class_name(module_type: str) -> str:
    _, _, class_name = module_type.rpartition(".")
    return class_name


def find(name: str, patterns: Sequence[str] = MODEL_FILES) -> Path:
    """Return the folder `name`, else the hub's snapshot, which is downloaded unless HF_HUB_OFFLINE is set.

    `patterns` choose the files that are downloaded.
    """
    if name in MODELS:
        return shipped_folder(MODELS[name])
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=list(IGNORED)))
    except Exception as error:  # a wrong id, a lack of network and of permission raise unrelated types
        reason = type(error).__name__
        if str(error):
            reason = str(error).splitlines()[0].rstrip(". ")
        raise RetrobenchError(
            f"Model {name!r} is neither a folder, nor one of {', '.join(MODELS)}, nor to be had from the hub "
            f"({reason}). Check the name, or download it and give the folder."
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty without the file. RetrobenchError for any other content."""
    content = _json(file)
    if not isinstance(content, dict | None):
        raise RetrobenchError(f"{file} is not a JSON object; fetch the model again.")
    return content or {}


def _json(file: Path) -> Any:
    if not file.is_file():
        return None
    return core.read_json(file, "Fetch the model again.")


def check_weights(title: str, folder: Path) -> None:
    """Check the weights of a folder that transformers will load, by their headers. `title` begins the message.

    RetrobenchError for damaged files, and for an index that names tensors or files that are not there.
    """
    from safetensors import SafetensorError, safe_open

    files: dict[str, set[str]] = {}
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as tensors:
                files[file.name] = set(tensors.keys())
        except (OSError, ValueError, SafetensorError) as error:
            raise RetrobenchError(
                f"{title} cannot be loaded: {file.name} is damaged ({clip(error)}). Fetch the model again."
            ) from error
    if WEIGHTS in files:
        return  # it goes before an index
    for name, file_name in _weight_map(folder / f"{WEIGHTS}.index.json").items():
        if name not in files.get(str(file_name), ()):
            raise RetrobenchError(
                f"{title} cannot be loaded: {WEIGHTS}.index.json names {quote(name)} in {quote(file_name)}, which does "
                "not hold it. Fetch the model again."
            )


def _weight_map(index: Path) -> dict[str, Any]:
    weight_map = read_json(index).get("weight_map", {})
    if not isinstance(weight_map, dict):
        raise RetrobenchError(f"{index} has no weight_map; fetch the model again.")
    return weight_map


def _modules(name: str, folder: Path) -> tuple[tuple[str, str], ...] | None:
    file = folder / "modules.json"
    entries = _json(file)
    if entries is None:
        return None
    try:
        modules = tuple((str(entry["path"]), str(entry["type"])) for entry in entries)
    except (TypeError, LookupError) as error:
        raise RetrobenchError(f"{file} lists no path and type; fetch the model again.") from error
    for module_path, module_type in modules:
        if Path(module_path).is_absolute() or ".." in Path(module_path).parts:
            raise RetrobenchError(f"{file} names a place outside the model, {module_path!r}.")
        if not module_type.startswith("sentence_transformers."):
            raise RetrobenchError(
                f"Model {name!r} comes with code of its own ({module_type} in modules.json), and no model's code is "
                "run. Choose a model made of sentence-transformers' modules."
            )
    return modules
