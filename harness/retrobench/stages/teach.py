"""A teacher's scores of a query's candidates and positives, from a cross-encoder or from a file."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retrobench.config import Experiment
from retrobench.core import bar, file_hash, gpu_memory, say
from retrobench.data import scored_pairs
from retrobench.errors import RetrobenchError
from retrobench.model import autocast
from retrobench.retrieval import embedding
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import Candidates, Examples, grouped, resolve_precision

__all__ = ["read_scores", "teach"]

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]

EXAMPLES = 32  # scored and written at a time
PAIRS = 128  # of a query and a passage, in one forward


def teach(work: Work, texts: TokenisedCollection, mined: Artifact | None) -> Artifact:
    """Return a teacher's scores of the candidates and the positives of each training example, float32.

    `candidates.npy` [E, D] has rows, `scores.npy` [E, D] and `positive_scores.npy` [E, P] have scores. -1 and NaN fill
    short lists. A cross-encoder scores the `mined` candidates and the positives. A file (`distil.scores`) has its own
    candidates: the documents that it scores for a query, without the query's positives.
    """
    experiment = work.experiment
    teacher = work.inputs.teacher
    settings = experiment.track.finetune
    distil = experiment.track.distil
    file: Path | None = None
    if distil.scores:
        file = Path(distil.scores).expanduser()
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
            mined_rows = np.load(mined.path / "candidates.npy")
            pairs = _Pairs(experiment, texts, examples, mined_rows)
            candidates = pairs.score(teacher.path, folder)
        assert candidates.scores is not None and candidates.positive_scores is not None
        np.save(folder / "candidates.npy", candidates.rows)
        np.save(folder / "scores.npy", candidates.scores)
        np.save(folder / "positive_scores.npy", candidates.positive_scores)
        (folder / "scores.part").unlink(missing_ok=True)
        candidate_count = np.isfinite(candidates.scores).sum()
        positive_count = np.isfinite(candidates.positive_scores).sum()
        return {"pairs": float(candidate_count + positive_count), **gpu_memory()}

    return work.store.ensure(
        "teach",
        recipe,
        sources,
        make,
        dataset=texts.collection.id,
        resumes=True,
        label=f"teach {distil.scores or distil.teacher}",
    )


class _Pairs:
    """Pairs of queries and documents for a cross-encoder: each example's positives, then its candidates."""

    def __init__(
        self, experiment: Experiment, texts: TokenisedCollection, examples: Examples, candidates: np.ndarray
    ) -> None:
        self.experiment = experiment
        self.texts = texts
        self.examples = examples
        self.candidates = candidates
        sizes = np.asarray([len(rows) for rows in examples.positives])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        positive_rows = np.concatenate(examples.positives)
        self.positives = grouped(owners, len(sizes), positive_rows, -1)  # [E, P]
        self.documents = np.hstack([self.positives, candidates])  # [E, P + D] rows, or -1

    def score(self, teacher: Path, folder: Path) -> Candidates:
        """Score all pairs, EXAMPLES examples at a time, and resume behind the scores in `folder`."""
        file = folder / "scores.part"
        count = len(self.documents)
        bytes_per_example = 4 * self.documents.shape[1]
        scored_count = 0
        if file.exists():
            whole_blocks = file.stat().st_size // (bytes_per_example * EXAMPLES)
            scored_count = whole_blocks * EXAMPLES
        if scored_count:
            say(f"continuing at query {scored_count:,}")
        with file.open("ab") as stream, bar(f"teach {teacher.name}", count, "queries", scored_count) as advance:
            stream.truncate(scored_count * bytes_per_example)
            predict = self._predictor(teacher)
            for first in range(scored_count, count, EXAMPLES):
                scores = self._score_block(first, predict)
                scores.tofile(stream)
                stream.flush()
                advance(len(scores))
        scores = np.fromfile(file, np.float32).reshape(self.documents.shape)
        width = self.positives.shape[1]
        positive_scores = scores[:, :width]
        candidate_scores = scores[:, width:]
        return Candidates(self.candidates, candidate_scores, positive_scores)

    def _score_block(self, first: int, predict: Predictor) -> np.ndarray:
        """Return the scores of EXAMPLES examples, [n, P + D]; NaN for absent documents."""
        block = slice(first, first + EXAMPLES)
        documents = self.documents[block]
        query_rows = self.examples.query_rows[block]
        is_present = documents >= 0
        queries = np.repeat(query_rows, is_present.sum(1))
        pairs = np.stack([queries, documents[is_present]])
        # The examples of a query are neighbours and share candidates, so a pair can occur more than once.
        unique_pairs, positions = np.unique(pairs, axis=1, return_inverse=True)
        pair_scores = predict(*unique_pairs)
        scores = np.full(documents.shape, np.nan, np.float32)
        scores[is_present] = pair_scores[positions.reshape(-1)]
        return scores

    def _predictor(self, teacher: Path) -> Predictor:
        """Return a function from query rows and document rows, both [M], to logits [M]."""
        from sentence_transformers import CrossEncoder

        track = self.experiment.track
        device = embedding.choose_device()
        model = CrossEncoder(
            str(teacher),
            device=str(device),
            max_length=track.distil.max_length or None,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
        precision = resolve_precision(track.finetune.precision)
        dataset = self.texts.collection.dataset
        query_texts = {query.id: query.text for query in dataset.queries()}
        query_ids = self.examples.queries.ids
        document_texts = self._document_texts()

        def predict(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
            pairs = []
            for query, document in zip(queries.tolist(), documents.tolist(), strict=True):
                query_text = query_texts[query_ids[query]]
                pairs.append([query_text, document_texts[document]])
            with autocast(device.type, precision):
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
        """Return the documents' texts by row, with titles where the student reads titles. Unscored rows are empty.

        A title is followed by a space, not by the separator, because teachers were not trained with the separator.
        """
        titles = self.experiment.track.finetune.reading.titles
        scored_rows = self.documents[self.documents >= 0]
        needed = np.zeros(len(self.examples.documents), np.bool_)
        needed[scored_rows] = True
        documents = self.texts.collection.dataset.documents()
        texts = []
        for document, is_needed in zip(documents, needed.tolist(), strict=True):
            if not is_needed:
                texts.append("")
            elif titles:
                texts.append(f"{document.title} {document.text}".strip())
            else:
                texts.append(document.text)
        return texts


def read_scores(file: Path, examples: Examples) -> Candidates:
    """Return the candidates and scores of a TSV file, gzipped or not, with the header `query-id corpus-id score`.

    Queries and documents outside the examples are skipped. RetrobenchError names a faulty line.
    """
    query_row = {name: row for row, name in enumerate(examples.queries.ids)}
    document_row = {name: row for row, name in enumerate(examples.documents.ids)}
    relevant = examples.relevant_by_query()
    positive_scores: dict[tuple[int, int], float] = {}
    queries = array("i")
    documents = array("i")
    candidate_scores = array("f")
    for query_id, document_id, score in scored_pairs(file):
        query = query_row.get(query_id, -1)
        document = document_row.get(document_id, -1)
        if query not in relevant or document < 0:
            continue
        if document in relevant[query]:
            positive_scores[query, document] = score
            continue
        queries.append(query)
        documents.append(document)
        candidate_scores.append(score)
    query_rows = np.asarray(queries)
    document_rows = np.asarray(documents, np.int32)
    candidate_values = np.asarray(candidate_scores, np.float32)
    rows = grouped(query_rows, len(query_row), document_rows, -1)
    scores = grouped(query_rows, len(query_row), candidate_values, np.nan)
    return Candidates(
        rows[examples.query_rows],
        scores[examples.query_rows],
        _scores_of_positives(examples, positive_scores),
    )


def _scores_of_positives(examples: Examples, scores: Mapping[tuple[int, int], float]) -> np.ndarray:
    """Return the scores of each example's positives, float32 [E, P], from scores by query row and document row."""
    most_positives = max(len(positives) for positives in examples.positives)
    table = np.full((len(examples), most_positives), np.nan, np.float32)
    for example, query in enumerate(examples.query_rows.tolist()):
        positives = examples.positives[example].tolist()
        for column, document in enumerate(positives):
            table[example, column] = scores.get((query, document), np.nan)
    return table
