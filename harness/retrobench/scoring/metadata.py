"""ir_metadata beside a run file: platform, research goal, implementation, method, actor and data, as YAML.

The schema is that of https://www.ir-metadata.org. The file is written with the run, as one of the finished stage's
files. So it holds only facts that are known then and that hold for every row of the run: no track, no command line.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrobench.core import atomic_write, provenance, retrobench_version
from retrobench.data import Dataset, catalogue

__all__ = ["write_metadata"]

NAME = "ir_metadata.yaml"
HEADER = (
    "# https://www.ir-metadata.org. The program does not know its user: fill the actor in before you publish a run.\n"
)
REPOSITORY = "https://github.com/retrobench/retrobench"


def write_metadata(
    folder: Path,
    tag: str,
    dataset: Dataset,
    method: Mapping[str, Any],
    hashes: Mapping[str, str],
    training: Mapping[str, str],
) -> None:
    """Write the metadata of the run in a folder.

    `method` describes the ranking. `hashes` are those of the dataset's content. `training` has the purpose of each
    dataset that the model was trained on, by its id.
    """
    collection: dict[str, Any] = {"name": dataset.id, **hashes, **dataset.limit_facts()}
    if catalogue.has_documents(dataset.id):
        collection["ir_datasets"] = dataset.id
    document = {
        "tag": tag,
        "platform": _platform(),
        "research goal": {"description": "Compare pre-training objectives for dense retrieval under one recipe."},
        "implementation": {
            "executable": {"cmd": "retrobench", "version": retrobench_version()},
            "source": {"lang": ["python"], "repository": REPOSITORY, "commit": provenance.commit()},
        },
        "method": {"automatic": True, "retrieval": [dict(method)]},
        "actor": {},
        "data": {
            "test collection": collection,
            "training data": [{"name": name, "purpose": purpose} for name, purpose in training.items()],
        },
    }
    atomic_write(folder / NAME, HEADER + _to_yaml(document))


def _platform() -> dict[str, Any]:
    hardware = provenance.hardware()
    parts: dict[str, Any] = {
        "cpu": {"model": hardware["processor"], "number of cores": hardware["cores"], "threads": hardware["threads"]}
    }
    if hardware["device"] != "cpu":
        parts["gpu"] = {"model": hardware["device"], "number": hardware["devices"]}
    libraries = provenance.libraries()
    python = libraries.pop("python")
    return {
        "hardware": parts,
        "operating system": {"kernel": f"{hardware['system']} {platform.release()}"},
        "software": {
            "language": f"Python {python}",
            "libraries": {"python": [f"{name}=={version}" for name, version in libraries.items()]},
        },
    }


def _to_yaml(document: Mapping[str, Any]) -> str:
    import yaml

    plain = json.loads(json.dumps(document))  # tuples become lists, which YAML has
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    return text
