"""Encoding of texts by a trained encoder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from retrobench.config import Reading
from retrobench.core import bar
from retrobench.data import TokenisedTexts
from retrobench.model import load_encoder
from retrobench.retrieval import Kind, embedding, write_vectors
from retrobench.stages.work import Work, once
from retrobench.store import Artifact
from retrobench.training import resolve_precision

__all__ = ["encode"]


@once
def encode(work: Work, encoder: Artifact, texts: Artifact, kind: Kind, reading: Reading) -> Artifact:
    """Return the vectors of all tokenised `texts`. Passages keep their largest terms, queries all terms.

    Each process encodes a share of the texts.
    """
    track = work.experiment.track
    entrant = work.experiment.neural
    max_length = reading.query_length if kind == "query" else reading.passage_length
    precision = resolve_precision(track.finetune.precision)
    attention = track.evaluate.performance.attention
    plural = "queries" if kind == "query" else "passages"
    label = f"encode {entrant.name} ({plural})"
    recipe = {
        "kind": kind,
        "representation": entrant.representation,
        **asdict(track.representation),
        "max_length": max_length,
        "precision": precision,
        **embedding.recipe(attention),
    }
    manifest = {"model": encoder.key, "texts": texts.key, **recipe}

    def make(folder: Path) -> dict[str, float]:
        model, vocabulary = load_encoder(encoder.path, entrant.representation, track.representation)
        source = TokenisedTexts.open(texts.path)
        with bar(label, len(source), "texts") as advance:
            return write_vectors(
                folder,
                model,
                vocabulary,
                source,
                kind=kind,
                max_length=max_length,
                precision=precision,
                attention=attention,
                facts=manifest,
                advance=advance,
            )

    return work.store.ensure(
        "encode", recipe, [encoder, texts], make, detail=plural, resumes=True, together=True, label=label
    )
