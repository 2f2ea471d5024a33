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
from retrobench.data import TokenisedTexts
from retrobench.model import Backbone, Encoder, load_tokenizer
from retrobench.objective import Vocabulary
from retrobench.retrieval import Kind, Searcher, write_vectors
from retrobench.scoring import canonical, ranking, score_hits
from retrobench.stages.finetune import prepare
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.store import Artifact
from retrobench.training import Examples, Loop, deterministic, resolve_precision

__all__ = ["Probe", "remove_probe"]

FOLDER = "probe"  # within that of the pre-training, while a probe runs
KINDS: tuple[Kind, ...] = ("query", "passage")


@dataclass(frozen=True)
class Probe:
    """The probes of one pre-training, which works in `folder`."""

    work: Work
    training: TokenisedCollection
    validation: TokenisedCollection
    folder: Path
    steps: int  # optimizer steps of fine-tuning

    def __call__(self, backbone: Backbone) -> float | None:
        """Return the track's main measure of a fine-tuned copy, None on other ranks and for non-finite weights.

        The copy is that which the pre-training would export now. All processes must call.
        """
        with self._folder() as folder:
            if processes.leads():
                backbone.lm.save_pretrained(folder)
                load_tokenizer(self.work.tokenizer.path).save_pretrained(folder)
            processes.meet()
            encoder, vocabulary = self._finetune(folder)
            if not all(bool(parameter.isfinite().all()) for parameter in encoder.parameters()):
                return None
            self._encode(folder, encoder, vocabulary, "query", self.validation.queries)
            self._encode(folder, encoder, vocabulary, "passage", self.validation.documents)
            processes.meet()
            return self._score(folder)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Make a folder for one probe, and remove it afterwards."""
        folder = self.folder / FOLDER
        if processes.leads():
            remove_probe(self.folder)
            for kind in KINDS:
                (folder / kind).mkdir(parents=True)
        processes.meet()
        try:
            yield folder
            processes.meet()
        finally:
            if processes.leads():
                remove_probe(self.folder)

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

    def _finetune(self, folder: Path) -> tuple[Encoder, Vocabulary]:
        """Return the encoder after a few steps from the weights in `folder`."""
        model, batch_maker, batches = prepare(self.work, folder, self._examples, self._settings)
        seed = self.work.experiment.seed
        with deterministic():
            loop = Loop(model, batches, batch_maker.collate, self._settings, seed, couples=True)
            for step in range(self._settings.steps):
                loop.step(step)
        return model.encoder, batch_maker.vocabulary

    def _encode(self, folder: Path, encoder: Encoder, vocabulary: Vocabulary, kind: Kind, texts: Artifact) -> None:
        """Write the vectors of texts to the folder of their kind."""
        track = self.work.experiment.track
        reading = track.test_reading
        lengths = {"query": reading.query_length, "passage": reading.passage_length}
        write_vectors(
            folder / kind,
            encoder,
            vocabulary,
            TokenisedTexts.open(texts.path),
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
