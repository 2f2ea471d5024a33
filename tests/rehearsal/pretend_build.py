"""
Build the pretend device for the torch of this interpreter.

* build             return the library, built if it is missing
* CannotBuildError  raised where this machine cannot build it, with the reason
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["CannotBuildError", "build"]

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "out" / "rehearsal"
FLAGS = ["-O1", "-std=c++20", "-fPIC", "-Wall"]


class CannotBuildError(Exception):
    """Raised where the device cannot be built, with the reason."""


def build() -> Path:
    """Return the library, which takes half a minute to build; CannotBuildError where that is impossible."""
    import torch

    if sys.platform != "linux":
        raise CannotBuildError("the pretend device is written for Linux")
    if torch.version.cuda is not None:
        raise CannotBuildError(f"torch {torch.__version__} is built for CUDA, and the pretend device takes its place")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise CannotBuildError("there is no C++ compiler; install g++, or name a compiler in $CXX")
    library = OUT / f"{torch.__version__}-{_hash_of_sources()}" / "device.so"
    if not library.exists():
        print(f"Building the pretend device for torch {torch.__version__} into {library.parent}", flush=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        _compile(compiler, Path(torch.__path__[0]), library)
    return library


def _hash_of_sources() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _compile(compiler: str, torch_folder: Path, library: Path) -> None:
    include = torch_folder / "include"
    headers = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    libraries = torch_folder / "lib"
    with TemporaryDirectory(dir=library.parent) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = []
        objects = []
        for source in sorted(HERE.glob("*.cpp")):
            object_file = f"{folder}/{source.stem}.o"
            objects.append(object_file)
            commands.append([compiler, *FLAGS, *headers, "-c", str(source), "-o", object_file])
        list(pool.map(_run, commands))
        linked = f"{folder}/{library.name}"
        torch_libraries = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu", "-lc10"]
        _run([compiler, "-shared", *objects, "-o", linked, *torch_libraries])
        os.rename(linked, library)  # its name means complete


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
