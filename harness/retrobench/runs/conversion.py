"""
Turn a pickled checkpoint, as older releases hold it, into safetensors.

* convert     write a model's folder anew, with safetensors in place of `.bin` files
* Converted   the folder and its tensors, as text
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import follow_umask, move, quiet_transformers, say, sync
from retrobench.errors import RetrobenchError
from retrobench.retrieval import MODEL_FILES, find, read_json

__all__ = ["Converted", "convert"]

PICKLED = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
SAFE = "model.safetensors"
SECONDS = 1800  # after which the process that unpickles is ended


@dataclass(frozen=True)
class Converted:
    """The folder that was written, and its weights."""

    model: str
    folder: Path
    tensors: int
    parameters: int
    ignored: tuple[str, ...]  # tensors that the architecture does not have

    def text(self) -> str:
        """Return the folder, the number of tensors, and the next step."""
        lines = [
            f"{self.model}: {self.tensors:,} tensors with {self.parameters:,} numbers, equal to the pickled ones",
            f"folder: {self.folder}",
        ]
        if self.ignored:
            lines.append(f"not of the architecture, kept: {', '.join(self.ignored[:5])} ({len(self.ignored)} in all)")
        lines.append(f"next:   retrobench evaluate {self.folder} ..., or --set entrant.checkpoint={self.folder}")
        return "\n".join(lines)


def convert(model: str, target: Path) -> Converted:
    """Write the model of a folder or hub id to the new folder `target`, with safetensors in place of pickled weights.

    A process of its own unpickles tensors and nothing else. Their names and shapes are compared with the model's
    config.json. RetrobenchError for a model without pickled weights, for a pickle of other content, and for weights
    of another shape; then `target` is not written.
    """
    quiet_transformers()
    if target.exists():
        raise RetrobenchError(f"{target} exists already. Name a new folder with --to.")
    source = find(model, (*MODEL_FILES, "*.bin"))
    pickled = list(_pickled_files(model, source))
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _copy_other_files(source, partial)
        for file in pickled:
            say(f"{model}: unpickles {file.relative_to(source)}")
            _unpickle(model, file, partial / file.relative_to(source).parent / _safe_name(file.name))
        _write_index(source, partial)
        converted = _check(model, partial, target)
        follow_umask(partial)
        sync(partial)
        move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return converted


def _pickled_files(model: str, source: Path) -> Iterator[Path]:
    """Yield the files of pickled weights of the model and of its modules. RetrobenchError if there are none."""
    folders = [source, *(folder for folder in sorted(source.iterdir()) if folder.is_dir())]
    files: list[Path] = []
    for folder in folders:
        if list(folder.glob("*.safetensors")):
            continue
        if (folder / INDEX).is_file():
            files += [folder / name for name in _shards(folder / INDEX)]
        elif (folder / PICKLED).is_file():
            files.append(folder / PICKLED)
    if not files:
        raise RetrobenchError(
            f"Model {model!r} holds no {PICKLED} without safetensors beside it; there is nothing to convert."
        )
    yield from files


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists. RetrobenchError for a name outside the folder."""
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".bin") or not (index.parent / name).is_file():
            raise RetrobenchError(f"{index} names {name!r}, which is no .bin file beside it. Fetch the model again.")
    return names


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = {str(name): str(file) for name, file in read_json(index)["weight_map"].items()}
    except (LookupError, AttributeError) as error:
        raise RetrobenchError(f"{index} is no index of weights ({error}). Fetch the model again.") from error
    return weight_map


def _safe_name(pickled: str) -> str:
    """Return the name that transformers expects of the file in safetensors."""
    return pickled.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def _copy_other_files(source: Path, target: Path) -> None:
    """Copy the files of a model but its weights, by the patterns of files that are loaded."""
    for pattern in MODEL_FILES:
        for file in source.rglob(pattern):
            if file.name == INDEX or not file.is_file():
                continue
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _unpickle(model: str, file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    program = Path(__file__).with_name("unpickling.py")
    # An empty environment holds no token. -I ignores the folder, the user's site and PYTHONPATH.
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "-I", str(program), str(file.resolve()), str(target.resolve())]
    try:
        process = subprocess.run(
            command,
            env=environment,
            cwd=target.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RetrobenchError(
            f"{file} of model {model!r} took more than {SECONDS} s to unpickle. Do not use it."
        ) from None
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise RetrobenchError(
            f"{file} of model {model!r} is refused: {reason[:300]}. Only tensors by name are unpickled. "
            "Nothing was written."
        )


def _write_index(source: Path, target: Path) -> None:
    """Write the index of several files of weights, for each folder that has one."""
    for index in source.rglob(INDEX):
        folder = target / index.relative_to(source).parent
        weight_map = {}
        total = 0
        for name in _shards(index):
            tensors = _shapes(folder / _safe_name(name))
            for tensor, (_, size) in tensors.items():
                weight_map[tensor] = _safe_name(name)
                total += size
        document = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{SAFE}.index.json").write_text(json.dumps(document, indent=2) + "\n")


def _shapes(file: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the shape and the bytes of each tensor in a file of safetensors."""
    from safetensors import safe_open

    shapes = {}
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dictionary
            tensor = tensors.get_tensor(name)
            shapes[name] = (tuple(tensor.shape), tensor.nbytes)
    return shapes


def _check(model: str, folder: Path, target: Path) -> Converted:
    """Compare the written weights with the model's config.json.

    RetrobenchError without config.json, and for another shape or a missing tensor.
    """
    shapes: list[tuple[int, ...]] = []
    for file in folder.rglob("*.safetensors"):
        shapes += [shape for shape, _ in _shapes(file).values()]
    report = _loading_report(model, folder)
    mismatched = [str(entry[0]) for entry in report["mismatched_keys"]]
    missing = sorted(name for name in report["missing_keys"] if "pooler." not in name)
    if mismatched or missing:
        fault = f"{mismatched[0]} has another shape" if mismatched else f"{missing[0]} is missing"
        raise RetrobenchError(
            f"The weights of model {model!r} do not fit its config.json: {fault} ({len(mismatched)} of another shape, "
            f"{len(missing)} missing). Fetch the model again. Nothing was written."
        )
    ignored = sorted(report["unexpected_keys"])
    parameters = sum(math.prod(shape) for shape in shapes)
    return Converted(model, target, len(shapes), parameters, tuple(ignored))


def _loading_report(model: str, folder: Path) -> dict[str, Any]:
    """Return transformers' comparison of weights and architecture, without loading a number."""
    import transformers

    config = read_json(folder / "config.json")
    if not config:
        raise RetrobenchError(f"Model {model!r} holds no config.json, so its weights cannot be checked.")
    architecture = (config.get("architectures") or ["AutoModel"])[0]
    model_class: Any = getattr(transformers, str(architecture), transformers.AutoModel)
    try:
        _, report = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            device_map="meta",
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise RetrobenchError(f"Model {model!r} cannot be read as its config.json says ({reason}).") from error
    comparison: dict[str, Any] = report
    return comparison
