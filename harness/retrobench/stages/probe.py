"""
A probe of a pre-training: whether further steps still help retrieval, long before the encoder is tested.

* Probe          fine-tunes a copy of a backbone for a few steps, and scores it on validation questions
* remove_probe   removes the files of a killed probe

The copy is fine-tuned as in the track's first round, for few steps, with in-batch negatives alone. A warm-up of a
number of steps becomes its share of the track's steps. Every probe of a run draws the same batches, so two probes
differ by their weights alone.

Documents are few: a relevant document of each question, then other judged documents, then the first of the corpus, as
under a limit on the data. Few documents are easy to search. So a probe compares with other probes of its track alone,
under equal settings, and never with a test.

The term coverage of the weights is measured before fine-tuning: the words of the documents that their vectors name,
under the encoder's own head. One run shows whether coverage and retrieval rise together, as the paper of BoW prediction
has it.

Several processes share a probe's batches and texts as they share those of the stages. Rank 0 scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from retrobench.config import Finetune
from retrobench.core import processes
from retrobench.data import TokenisedTexts, vocabulary
from retrobench.model import Backbone, load_encoder, load_tokenizer, load_with_head
from retrobench.retrieval import Kind, Searcher, Texts, measure_own_head, vector_with_words, write_vectors
from retrobench.scoring import canonical, ranking, score_hits
from retrobench.stages.finetune import prepare
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.training import Examples, Loop, deterministic, resolve_precision

__all__ = ["Probe", "remove_probe"]

FOLDER = "probe"  # within that of the pre-training, while a probe runs
WORDS = "words"  # the folder of vectors whose words are measured
KINDS: tuple[Kind, ...] = ("query", "passage")


@dataclass(frozen=True)
class Probe:
    """The probes of one pre-training, which works in `folder`."""

    work: Work
    training: TokenisedCollection
    validation: TokenisedCollection
    folder: Path
    steps: int  # optimizer steps of fine-tuning

    def __call__(self, backbone: Backbone) -> dict[str, float | None]:
        """Return the track's main measure of a fine-tuned copy, and the term coverage before fine-tuning.

        The copy is that which the pre-training would export now. All processes must call. Values are None on other
        ranks and for non-finite weights.
        """
        with self._folder() as folder:
            if processes.leads():
                backbone.lm.save_pretrained(folder)
                load_tokenizer(self.work.tokenizer.path).save_pretrained(folder)
            processes.meet()
            coverage = self._cover(folder)
            score = None
            if self._finetune(folder):
                self._encode(folder)
                processes.meet()
                score = self._score(folder)
            return {"probe": score, "probe_coverage": coverage}

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Make a folder for one probe, and remove it afterwards."""
        folder = self.folder / FOLDER
        if processes.leads():
            remove_probe(self.folder)
            for name in (*KINDS, WORDS):
                (folder / name).mkdir(parents=True)
        processes.meet()
        try:
            yield folder
            processes.meet()
        finally:
            if processes.leads():
                remove_probe(self.folder)

    def _cover(self, folder: Path) -> float | None:
        """Return the term coverage of the encoder in `folder`, on the documents that the probe searches."""
        tokenizer = load_tokenizer(folder)
        tokens = TokenisedTexts.open(self.validation.documents.path)
        length = self.work.experiment.track.test_reading.passage_length
        texts = Texts(tokens, vocabulary(tokenizer, len(tokenizer)), length, measured=len(tokens))
        backbone, _ = load_with_head(folder)
        pooling = vector_with_words(self.work.experiment.neural.representation)
        return measure_own_head(backbone, pooling, texts, folder / WORDS)

    @cached_property
    def _examples(self) -> Examples:
        return self.training.examples(self.work.experiment.track.finetune.examples)

    @cached_property
    def _settings(self) -> Finetune:
        """Return the settings of the track's fine-tuning, for few steps. Compiling would take longer than they do."""
        settings = self.work.experiment.track.finetune
        total = settings.resolved(len(self._examples)).steps
        steps = min(self.steps, total)
        warmup = settings.warmup
        if warmup >= 1:
            warmup = max(1, round(warmup * steps / total))
        performance = replace(settings.performance, compile="off")
        return replace(settings, steps=steps, epochs=0.0, warmup=warmup, negatives=0, performance=performance)

    def _finetune(self, folder: Path) -> bool:
        """Fine-tune the encoder in `folder` for a few steps, and write it back. Tell whether its weights are finite."""
        model, batch_maker, batches = prepare(self.work, folder, self._examples, self._settings)
        with deterministic():
            seed = self.work.experiment.seed
            loop = Loop(model, batches, batch_maker.collate, self._settings, seed, couples=True)
            for step in range(self._settings.steps):
                loop.step(step)
        processes.meet()  # all have read the folder
        if processes.leads():
            tokenizer = load_tokenizer(self.work.tokenizer.path)
            model.encoder.save(folder, tokenizer, self._settings.reading.passage_length)
        processes.meet()
        return all(bool(parameter.isfinite().all()) for parameter in model.encoder.parameters())

    def _encode(self, folder: Path) -> None:
        """Write the vectors of the encoder in `folder` to a folder for each kind of texts."""
        track = self.work.experiment.track
        reading = track.test_reading
        encoder, vocabulary = load_encoder(folder, self.work.experiment.neural.representation, track.representation)
        texts = {"query": self.validation.queries, "passage": self.validation.documents}
        lengths = {"query": reading.query_length, "passage": reading.passage_length}
        for kind in KINDS:
            write_vectors(
                folder / kind,
                encoder,
                vocabulary,
                TokenisedTexts.open(texts[kind].path),
                kind=kind,
                max_length=lengths[kind],
                precision=resolve_precision(track.finetune.precision),
                attention=track.evaluate.performance.attention,
            )

    def _score(self, folder: Path) -> float | None:
        """Return the track's main measure of the vectors in `folder`, by exact search."""
        experiment = self.work.experiment
        evaluate = experiment.track.evaluate
        dataset = self.validation.collection.dataset
        searcher = Searcher(folder / "query", folder / "passage", scale=experiment.track.representation.scale)
        blocks = list(searcher.blocks(evaluate.depth, dataset.exclusions()))
        if not processes.leads():
            return None
        ranked = ranking.join(blocks, len(searcher.query_ids))
        measure = evaluate.measures[0]
        scored = score_hits(experiment.entrant.name, dataset, searcher.query_ids, searcher.ids, ranked, [measure])
        return scored.measures[canonical(measure, dataset.rule.relevance_level)]


def remove_probe(folder: Path) -> None:
    """Remove the files of a probe that was killed, from the folder of its pre-training."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
