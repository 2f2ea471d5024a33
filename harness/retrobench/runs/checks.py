"""
The things behind rows, each read and hashed once for all rows.

* Finding    a difference, or a thing that is not here
* Entries    finished stages in a store
* Datasets   documents and judgements, as they are here
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from retrobench.core import say
from retrobench.data import Collection, Corpus, Dataset, Part, is_local, load, open_collections
from retrobench.errors import RetrobenchError
from retrobench.scoring import Judgements, dataset_judgements
from retrobench.store import entry_fault

__all__ = ["Datasets", "Entries", "Finding", "absence", "difference"]

LARGE = 2**30  # bytes of an entry whose hashing is announced
PRINTED = 12  # digits of a hash in a sentence


class Finding(NamedTuple):
    """A thing behind a row that is missing here, or that differs from the row."""

    status: Literal["missing", "differs"]
    text: str


def difference(text: str) -> Finding:
    """Return the finding of a thing that differs."""
    return Finding("differs", text)


def absence(text: str) -> Finding:
    """Return the finding of a thing that is not here."""
    return Finding("missing", text)


class Entries:
    """The finished stages in the store at `root`. Nothing is written there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._faults: dict[Path, str] = {}

    def folder(self, role: str, key: str) -> Path:
        """Return the folder of an artifact. Its role begins with its stage."""
        return self.root / role.partition(" ")[0] / key

    def check(self, artifacts: Mapping[str, str]) -> Iterator[Finding]:
        """Yield the findings of a row's artifacts, key by role: every file of every artifact is hashed."""
        missing = [role for role, key in artifacts.items() if not self.folder(role, key).is_dir()]
        if len(missing) == len(artifacts) > 1:
            yield absence(f"all {len(missing)} artifacts (store {self.root})")
            return
        yield from map(absence, missing)
        for role, key in artifacts.items():
            if role not in missing:
                folder = self.folder(role, key)
                fault = self._fault(role, folder)
                if fault:
                    yield difference(f"{role} ({folder.parent.name}/{key}): {fault}")

    def _fault(self, role: str, folder: Path) -> str:
        if folder not in self._faults:
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if size >= LARGE:
                say(f"{role}: hashes {size / LARGE:.1f} GiB")
            self._faults[folder] = entry_fault(folder)
        return self._faults[folder]


class Datasets:
    """Datasets by id. A dataset that is not on this machine is never downloaded."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, Part], Collection | str] = {}
        self._corpora: dict[str, Corpus] = {}
        self._hashes: dict[tuple[Dataset, str], str | Finding] = {}
        self._judgements: dict[tuple[Dataset, int | None], Judgements | None] = {}

    def check(self, name: str, facts: Mapping[str, Any]) -> Iterator[Finding]:
        """Yield how documents and judgements of a dataset differ from a row's facts."""
        collection = self._open(name, Part.read(facts))
        if isinstance(collection, str):
            yield absence(f"dataset {name} ({collection})")
            return
        for part, noun in (("corpus", "documents"), ("qrels", "judgements")):
            if part not in facts:
                yield absence(f"the row's hash of the {noun} of {name}")
                continue
            digest = self._hash(collection, part)
            if isinstance(digest, Finding):
                yield digest
                continue
            recorded = str(facts[part])
            if digest != recorded:
                hashes = f"the hash {digest[:PRINTED]}, and the row has {recorded[:PRINTED]}"
                yield difference(f"the {noun} of {name} have {hashes}")

    def judgements(self, name: str, facts: Mapping[str, Any]) -> Judgements | None:
        """Return the judgements that a row was scored by; None where they are not here, or are others."""
        collection = self._open(name, Part.read(facts))
        if isinstance(collection, str):
            return None
        if self._hash(collection, "qrels") != facts.get("qrels", self._hash(collection, "qrels")):
            return None
        level = facts.get("relevance_level")
        key = (collection.dataset, level)
        if key not in self._judgements:
            self._judgements[key] = _read_judgements(collection, level)
        return self._judgements[key]

    def _open(self, name: str, part: Part) -> Collection | str:
        """Return the part of the dataset, or the reason why it cannot be read here."""
        if (name, part) not in self._opened:
            self._opened[name, part] = self._load(name, part)
        return self._opened[name, part]

    def _load(self, name: str, part: Part) -> Collection | str:
        try:
            for needed in (name, *part.judged):
                if not is_local(load(needed)):
                    return f"`retrobench data fetch {needed}` downloads it"
            dataset = open_collections([name], *part)[name].dataset
        except RetrobenchError as error:
            return str(error)
        corpus = self._corpora.setdefault(dataset.corpus_id, Corpus(dataset))
        return Collection(dataset, corpus)

    def _hash(self, collection: Collection, part: str) -> str | Finding:
        """Return the hash of the `corpus` or the `qrels`, or the fault of their files."""
        key = (collection.dataset, part)
        if key not in self._hashes:
            self._hashes[key] = _read_hash(collection, part)
        return self._hashes[key]


def _read_hash(collection: Collection, part: str) -> str | Finding:
    try:
        if part == "qrels":
            return collection.qrels_hash
        say(f"{collection.id}: hashes the documents")
        return collection.corpus.hash
    except RetrobenchError as error:
        return difference(f"{part} of {collection.id}: {error}")


def _read_judgements(collection: Collection, level: int | None) -> Judgements | None:
    try:
        return dataset_judgements(collection.dataset, level)
    except RetrobenchError:
        return None  # `check` names the fault
