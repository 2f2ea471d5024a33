"""A teacher's scores of a query's candidates and positives: a cross-encoder's, or a file of what one said."""

from __future__ import annotations

import gzip
import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retrobench.config import Experiment
from retrobench.core import bar, file_hash, gpu_memory, say
from retrobench.errors import RetrobenchError
from retrobench.retrieval import embedding
from retrobench.stages.training_texts import TrainingTexts
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import Candidates, Examples, grouped, resolve_precision

__all__ = ["read_scores", "teach"]

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]

EXAMPLES = 32  # scored together, and written before the next ones are
PAIRS = 128  # of a query and a passage, in one forward


def teach(work: Work, texts: TrainingTexts, mined: Artifact | None) -> Artifact:
    """Return a teacher's scores of the candidates and the positives of each training example, float32.

    `candidates.npy` [E, D] goes with `scores.npy` [E, D] and `positive_scores.npy` [E, P]; -1 and NaN where there is
    none. A cross-encoder scores the `mined` candidates and the positives. A file (`distil.scores`) brings its own
    candidates: the documents it scores for a query, less the query's positives.
    """
    experiment, teacher = work.experiment, work.inputs.teacher
    track = experiment.track
    settings, distil = track.finetune, track.distil
    file = Path(distil.scores).expanduser() if distil.scores else None
    recipe: dict[str, Any] = {"examples": settings.examples, "judgements": texts.collection.qrels_hash}
    sources: list[Source] = [texts.documents, texts.queries]
    if file is not None:
        recipe["scores"] = file_hash(file)
    else:
        assert teacher is not None and mined is not None, "an Experiment with a teacher mines"
        recipe["max_length"] = distil.max_length
        recipe["precision"] = resolve_precision(settings.precision)
        recipe["titles"] = bool(settings.reading.titles)
        sources += [teacher, mined]

    def make(folder: Path) -> dict[str, float]:
        examples = texts.examples(settings.examples)
        if file is not None:
            candidates = read_scores(file, examples)
        else:
            assert teacher is not None and mined is not None
            pairs = _Pairs(experiment, texts, examples, np.load(mined.path / "candidates.npy"))
            candidates = pairs.score(teacher.path, folder)
        assert candidates.scores is not None and candidates.positive_scores is not None
        np.save(folder / "candidates.npy", candidates.rows)
        np.save(folder / "scores.npy", candidates.scores)
        np.save(folder / "positive_scores.npy", candidates.positive_scores)
        (folder / "scores.part").unlink(missing_ok=True)
        count = np.isfinite(candidates.scores).sum() + np.isfinite(candidates.positive_scores).sum()
        return {"pairs": float(count), **gpu_memory()}

    dataset, label = texts.collection.id, f"teach {distil.scores or distil.teacher}"
    return work.store.ensure("teach", recipe, sources, make, dataset=dataset, resumes=True, label=label)


class _Pairs:
    """The pairs of queries and documents that a cross-encoder scores: each example's positives, then its candidates."""

    def __init__(
        self, experiment: Experiment, texts: TrainingTexts, examples: Examples, candidates: np.ndarray
    ) -> None:
        self.experiment, self.texts, self.examples, self.candidates = experiment, texts, examples, candidates
        sizes = np.asarray([len(rows) for rows in examples.positives])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        self.positives = grouped(owners, len(sizes), np.concatenate(examples.positives), -1)  # [E, P]
        self.documents = np.hstack([self.positives, candidates])  # [E, P + D], rows; -1 where there is none

    def score(self, teacher: Path, folder: Path) -> Candidates:
        """Score all pairs, a few examples at a time, and resume behind the scores that `folder` holds already."""
        file = folder / "scores.part"
        bytes_per_example = 4 * self.documents.shape[1]
        done = 0
        if file.exists():
            done = file.stat().st_size // (bytes_per_example * EXAMPLES) * EXAMPLES
        if done:
            say(f"continuing at query {done:,}")
        with file.open("ab") as stream, bar(f"teach {teacher.name}", len(self.documents), "queries", done) as advance:
            stream.truncate(done * bytes_per_example)
            predict = self._predictor(teacher)
            for first in range(done, len(self.documents), EXAMPLES):
                scores = self._score_block(first, predict)
                scores.tofile(stream)
                stream.flush()
                advance(len(scores))
        scores = np.fromfile(file, np.float32).reshape(self.documents.shape)
        width = self.positives.shape[1]
        return Candidates(self.candidates, scores[:, width:], scores[:, :width])

    def _score_block(self, first: int, predict: Predictor) -> np.ndarray:
        """Return the scores of EXAMPLES examples, [n, P + D]; NaN where there is no document."""
        documents = self.documents[first : first + EXAMPLES]
        present = documents >= 0
        scores = np.full(documents.shape, np.nan, np.float32)
        queries = np.repeat(self.examples.query_rows[first : first + EXAMPLES], present.sum(1))
        # Examples of one query stand together and share their candidates.
        pairs, position = np.unique(np.stack([queries, documents[present]]), axis=1, return_inverse=True)
        scores[present] = predict(*pairs)[position.reshape(-1)]
        return scores

    def _predictor(self, teacher: Path) -> Predictor:
        """Return a function from rows of queries and of documents, both [M], to logits [M]."""
        from sentence_transformers import CrossEncoder

        track, device = self.experiment.track, embedding.choose_device()
        model = CrossEncoder(
            str(teacher),
            device=str(device),
            max_length=track.distil.max_length or None,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
        bf16 = resolve_precision(track.finetune.precision) == "bf16"
        query_texts = {query.id: query.text for query in self.texts.collection.dataset.queries()}
        query_ids, document_texts = self.examples.queries.ids, self._document_texts()

        def predict(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
            pairs = []
            for query, document in zip(queries.tolist(), documents.tolist(), strict=True):
                pairs.append([query_texts[query_ids[query]], document_texts[document]])
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model.predict(pairs, batch_size=PAIRS, activation_fn=nn.Identity(), show_progress_bar=False)
            scores = np.asarray(logits, np.float32).reshape(len(pairs))
            if not np.isfinite(scores).all():
                raise RetrobenchError(
                    f"The teacher {track.distil.teacher!r} gives a score that is not finite. "
                    "Try finetune.precision=fp32."
                )
            return scores

        return predict

    def _document_texts(self) -> list[str]:
        """Return the texts of the documents to score by row, as the student reads them; empty for all others.

        The separator behind a title is left out: no teacher has met one there.
        """
        titles = self.experiment.track.finetune.reading.titles
        needed = np.zeros(len(self.examples.documents), np.bool_)
        needed[self.documents[self.documents >= 0]] = True
        texts = []
        for document, is_needed in zip(self.texts.collection.dataset.documents(), needed.tolist(), strict=True):
            text = f"{document.title} {document.text}".strip() if titles else document.text
            texts.append(text if is_needed else "")
        return texts


def read_scores(file: Path, examples: Examples) -> Candidates:
    """Return the candidates and scores of a TSV file with the header `query-id corpus-id score`, gzipped or not.

    Queries and documents that the examples do not have are passed over. RetrobenchError names a faulty line.
    """
    query_row = {name: row for row, name in enumerate(examples.queries.ids)}
    document_row = {name: row for row, name in enumerate(examples.documents.ids)}
    relevant = examples.relevant_by_query()
    positive_scores: dict[tuple[int, int], float] = {}
    queries, documents, values = array("i"), array("i"), array("f")
    for query_id, document_id, score in _lines(file):
        query, document = query_row.get(query_id, -1), document_row.get(document_id, -1)
        if query not in relevant or document < 0:
            continue
        if document in relevant[query]:
            positive_scores[query, document] = score
            continue
        queries.append(query)
        documents.append(document)
        values.append(score)
    keys = np.asarray(queries)
    rows = grouped(keys, len(query_row), np.asarray(documents, np.int32), -1)[examples.query_rows]
    scores = grouped(keys, len(query_row), np.asarray(values, np.float32), np.nan)[examples.query_rows]
    own_scores = np.full((len(examples), max(map(len, examples.positives))), np.nan, np.float32)
    for example, (query, positives) in enumerate(zip(examples.query_rows.tolist(), examples.positives, strict=True)):
        for column, document in enumerate(positives.tolist()):
            own_scores[example, column] = positive_scores.get((query, document), np.nan)
    return Candidates(rows, scores, own_scores)


def _lines(file: Path) -> Iterator[tuple[str, str, float]]:
    expected = "query-id, corpus-id and a finite score with tabs between them"
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            cells = line.rstrip("\r\n").split("\t")
            score = _number(cells[2]) if len(cells) == 3 else math.nan
            if number == 1 and math.isfinite(score):
                raise RetrobenchError(f"{file} has no header; let its first line be query-id, corpus-id, score.")
            if number > 1 and not math.isfinite(score):
                raise RetrobenchError(f"{file}, line {number}: {expected} were expected, not {cells}.")
            if number > 1:
                yield cells[0], cells[1], score


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
