"""Texts to vectors, by the encoder that was trained."""

from __future__ import annotations

from pathlib import Path

from retrobench.config import Experiment, counted
from retrobench.data import TokenisedTexts
from retrobench.retrieval import Kind, embedding, write_vectors
from retrobench.stages.finetune import load_encoder
from retrobench.store import Artifact, Store
from retrobench.training import resolve_precision

__all__ = ["encode"]


def encode(x: Experiment, store: Store, encoder: Artifact, texts: Artifact, kind: Kind) -> Artifact:
    """The vectors of all texts as `vectors.Vectors` reads them: of passages the largest terms only, of queries all.

    The processes of a team do a part of it each.
    """
    lengths = {"query": x.track.finetune.query_length, "passage": x.track.finetune.passage_length}
    precision = resolve_precision(x.track.finetune.precision)
    recipe = {"kind": kind, "representation": x.entrant.representation, **counted(x.track.representation)}
    recipe |= {"max_length": lengths[kind], "precision": precision}
    recipe |= {"windows": embedding.WINDOW, "revision": embedding.REVISION}
    label = f"encode {x.entrant.name} ({'queries' if kind == 'query' else 'passages'})"
    about = {"model": encoder.key, "texts": texts.key, **recipe}

    def make(folder: Path) -> dict[str, float]:
        model, vocabulary = load_encoder(x, encoder.path)
        source = TokenisedTexts.open(texts.path)
        return write_vectors(folder, model, vocabulary, source, kind, lengths[kind], precision == "bf16", about, label)

    return store.ensure("encode", recipe, [encoder, texts], make, resumes=True, together=True, label=label)
