"""A teacher's scores of a query's candidates and positives: a cross-encoder's, or a file of what one said."""

from __future__ import annotations

import gzip
import json
import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retrobench.config import Experiment
from retrobench.core import bar, file_hash, gpu_memory, say, tree_hash
from retrobench.data import load
from retrobench.errors import RetrobenchError
from retrobench.retrieval import embedding, find
from retrobench.stages.start import model_files, start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.training import Candidates, Examples, grouped, judged, resolve_precision

__all__ = ["look_at_teacher", "read_scores", "teach"]

EXAMPLES = 32  # scored together, and written before the next ones are
PAIRS = 128  # of a query and a passage, in one forward


def teach(x: Experiment, store: Store, mined: Artifact | None) -> Artifact:
    """`candidates.npy` [E, D] with `scores.npy` [E, D] and `positive_scores.npy` [E, P], float32: what a teacher gives
    the candidates and the positives of each training example; -1 and NaN where there is none.

    A cross-encoder (`distil.teacher`) scores the `mined` candidates and the positives. A file (`distil.scores`) brings
    its own candidates: the documents it scores for a query, without what answers it.
    """
    dataset_id, settings, beginning = x.track.finetune.queries, x.track.finetune, start(x)
    documents = tokenise(store, beginning, dataset_id, "documents", settings.titles)
    queries = tokenise(store, beginning, dataset_id, "queries", sample=x.track.mine.queries)
    recipe: dict[str, Any] = {"examples": settings.examples, "judgements": judged(load(dataset_id))}
    if x.track.distil.scores:
        file = Path(x.track.distil.scores).expanduser()
        recipe |= {"scores": file_hash(file)}
    else:
        teacher = look_at_teacher(x.track.distil.teacher)
        recipe |= {"teacher": tree_hash(model_files(teacher)), "max_length": x.track.distil.max_length}
        recipe |= {"precision": resolve_precision(settings.precision), "titles": bool(settings.titles)}

    def make(folder: Path) -> dict[str, float]:
        examples = Examples(queries.path, documents.path, dataset_id, settings.examples)
        if x.track.distil.scores:
            found = read_scores(file, examples)
        else:
            assert mined is not None, "an Experiment with a teacher mines"
            found = _ask(x, teacher, examples, np.load(mined.path / "candidates.npy"), folder)
        assert found.scores is not None and found.positive_scores is not None
        np.save(folder / "candidates.npy", found.rows)
        np.save(folder / "scores.npy", found.scores)
        np.save(folder / "positive_scores.npy", found.positive_scores)
        (folder / "scores.part").unlink(missing_ok=True)
        pairs = np.isfinite(found.scores).sum() + np.isfinite(found.positive_scores).sum()
        return {"pairs": float(pairs), **gpu_memory()}

    sources = [documents, queries, *([mined] if mined and not x.track.distil.scores else [])]
    label = f"teach {x.track.distil.scores or x.track.distil.teacher}"
    return store.ensure("teach", recipe, sources, make, resumes=True, label=label)


def look_at_teacher(name: str) -> Path:
    """The folder of a cross-encoder, once its files are seen to be usable; RetrobenchError otherwise."""
    folder = find(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        labels = len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))
    except (OSError, ValueError, TypeError) as error:
        raise RetrobenchError(
            f"The teacher {name!r} holds no config.json that can be read; give a cross-encoder."
        ) from error
    if labels != 1:
        raise RetrobenchError(f"The teacher {name!r} gives {labels} numbers for a pair; give a cross-encoder with one.")
    if not list(folder.glob("*.safetensors")):
        raise RetrobenchError(
            f"The teacher {name!r} holds no safetensors, and nothing pickled is loaded. "
            "Convert it with transformers' save_pretrained first."
        )
    return folder


def _ask(x: Experiment, teacher: Path, examples: Examples, candidates: np.ndarray, folder: Path) -> Candidates:
    """Score all pairs a few examples at a time; what `scores.part` in `folder` holds already is kept."""
    sizes = np.asarray([len(found) for found in examples.positives])
    own = grouped(np.repeat(np.arange(len(sizes)), sizes), len(sizes), np.concatenate(examples.positives), -1)
    wanted = np.hstack([own, candidates])  # [E, P + D] rows of documents
    part, line = folder / "scores.part", 4 * wanted.shape[1]  # bytes of an example's scores
    done = part.stat().st_size // (line * EXAMPLES) * EXAMPLES if part.exists() else 0
    if done:
        say(f"continuing at query {done:,}")
    with part.open("ab") as file, bar(f"teach {teacher.name}", len(wanted), "queries", done) as advance:
        file.truncate(done * line)
        score = _scorer(x, teacher, examples, wanted)
        for first in range(done, len(wanted), EXAMPLES):
            block = wanted[first : first + EXAMPLES]
            known = block >= 0
            scores = np.full(block.shape, np.nan, np.float32)
            asked = np.repeat(examples.query_rows[first : first + EXAMPLES], known.sum(1))
            # Examples of one query stand together and share their candidates.
            pairs, place = np.unique(np.stack([asked, block[known]]), axis=1, return_inverse=True)
            scores[known] = score(*pairs)[place.reshape(-1)]
            scores.tofile(file)
            file.flush()
            advance(len(block))
    scores = np.fromfile(part, np.float32).reshape(wanted.shape)
    return Candidates(candidates, scores[:, own.shape[1] :], scores[:, : own.shape[1]])


def _scorer(
    x: Experiment, teacher: Path, examples: Examples, wanted: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Rows of queries and of documents, both [M], to scores [M]: logits, whatever the teacher's files put on top."""
    from sentence_transformers import CrossEncoder

    dataset, titles = load(x.track.finetune.queries), x.track.finetune.titles
    needed = np.zeros(len(examples.documents), np.bool_)
    needed[wanted[wanted >= 0]] = True
    pairs = zip(dataset.documents(), needed.tolist(), strict=True)
    # As the student reads it, but for the separator: no teacher has met one there.
    texts = [(f"{d.title} {d.text}".strip() if titles else d.text) if kept else "" for d, kept in pairs]
    asked = {query.id: query.text for query in dataset.queries()}
    place = embedding.place()
    model = CrossEncoder(
        str(teacher),
        device=str(place),
        max_length=x.track.distil.max_length or None,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32},
    )
    halved = resolve_precision(x.track.finetune.precision) == "bf16"

    def score(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        ids = (examples.queries.ids[row] for row in queries.tolist())
        read = [[asked[name], texts[row]] for name, row in zip(ids, documents.tolist(), strict=True)]
        with torch.autocast(place.type, torch.bfloat16, enabled=halved):
            found = model.predict(read, batch_size=PAIRS, activation_fn=nn.Identity(), show_progress_bar=False)
        scores = np.asarray(found, np.float32).reshape(len(read))
        if not np.isfinite(scores).all():
            raise RetrobenchError(
                f"The teacher {x.track.distil.teacher!r} gives a score that is not finite. Try finetune.precision=fp32."
            )
        return scores

    return score


def read_scores(file: Path, examples: Examples) -> Candidates:
    """The candidates and scores of a TSV file with the header `query-id corpus-id score`, gzipped or not.

    Queries and documents that the examples do not have are passed over. RetrobenchError names a faulty line.
    """
    query_of = {name: row for row, name in enumerate(examples.queries.ids)}
    row_of = {name: row for row, name in enumerate(examples.documents.ids)}
    relevant = dict(zip(examples.query_rows.tolist(), (set(of.tolist()) for of in examples.relevant), strict=True))
    own: dict[tuple[int, int], float] = {}
    keys, documents, values = array("i"), array("i"), array("f")
    for query, document, score in _lines(file):
        asked, found = query_of.get(query, -1), row_of.get(document, -1)
        if asked in relevant and found in relevant[asked]:
            own[asked, found] = score
        elif asked in relevant and found >= 0:
            keys.append(asked)
            documents.append(found)
            values.append(score)
    rows = grouped(np.asarray(keys), len(query_of), np.asarray(documents, np.int32), -1)[examples.query_rows]
    scores = grouped(np.asarray(keys), len(query_of), np.asarray(values, np.float32), np.nan)[examples.query_rows]
    positives = np.full((len(examples), max(map(len, examples.positives))), np.nan, np.float32)
    for place, (asked, rows_of) in enumerate(zip(examples.query_rows.tolist(), examples.positives, strict=True)):
        positives[place, : len(rows_of)] = [own.get((asked, row), np.nan) for row in rows_of.tolist()]
    return Candidates(rows, scores, positives)


def _lines(file: Path) -> Iterator[tuple[str, str, float]]:
    expected = "query-id, corpus-id and a finite score with tabs between them"
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            parts = line.rstrip("\r\n").split("\t")
            score = _number(parts[2]) if len(parts) == 3 else math.nan
            if number == 1 and math.isfinite(score):
                raise RetrobenchError(f"{file} has no header; let its first line be query-id, corpus-id, score.")
            if number > 1 and not math.isfinite(score):
                raise RetrobenchError(f"{file}, line {number}: {expected} were expected, not {parts}.")
            if number > 1:
                yield parts[0], parts[1], score


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
