"""
Text vectors projected to the vocabulary, and the coverage of each projection with its controls.

* measure_encoder   every measure of every text, under every projection

Projections, of vectors [n, D] to scores [n, V]:

own head          the encoder's own masked-language-modelling head, which BoW prediction trains
tied embedding    the word matrix alone (the paper's equation)
base's head       the head of the base model for every encoder (Ram et al., ACL 2023): no objective trained it for [CLS]
linear probe      a new matrix, fitted to other texts in one epoch from their word counts: the words that a vector
                  holds, in whatever form
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench.config import Representations
from retrobench.core import bar
from retrobench.model import Backbone, Encoder, bag_loss, bag_of_words
from retrobench.retrieval import embedding
from retrobench.retrieval.term_coverage.texts import Texts
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring import measure_coverage, rank_words

__all__ = ["measure_encoder"]

PRIOR = "unigram prior"  # every text's best words are the corpus' commonest
BLOCK = 256  # texts whose scores of all words are in memory together
PROBE_BATCH = 64
PROBE_RATE = 1e-2  # of .001 to .1, the best on held-out texts for the shipped base and for RetroMAE's encoder

Projection = Callable[[Tensor], Tensor]  # [n, D] -> [n, V]
Values = dict[str, np.ndarray]  # "PROJECTION/MEASURE" -> [n]


@torch.inference_mode()
def measure_encoder(
    backbone: Backbone, has_head: bool, base: Backbone | None, pooling: str, texts: Texts, groups: Mapping[str, Any]
) -> Values:
    """Return the measures of each measured text, by projection and measure, from its vector: [CLS], or the mean.

    Beside `measure_coverage`'s: `shuffled`, the R-coverage of another text's words, and `random`, that of a vector
    drawn at random with the text's norm. Both need no text, so an encoder is worth the difference alone.
    """
    device = embedding.choose_device()
    backbone.to(device).eval()
    vectors = _embed(backbone, pooling, texts, device)  # [N, D]
    measured = vectors[: texts.measured]
    noise = torch.randn(measured.shape, generator=torch.Generator().manual_seed(0)).to(device)
    noise *= measured.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    values: Values = {}
    for name, project in _projections(backbone, has_head, base, vectors, texts).items():
        for measure, by_text in _measure(project, measured, noise, texts, groups).items():
            values[f"{name}/{measure}"] = by_text
    prior = rank_words(texts.frequencies[None].astype(np.float64), texts.is_word)
    ranks = np.broadcast_to(prior.ranks, (texts.measured, prior.ranks.shape[1]))
    log_shares = np.broadcast_to(prior.log_shares, ranks.shape)
    bags = texts.bags[: texts.measured]
    for measure, by_text in measure_coverage(prior._replace(ranks=ranks, log_shares=log_shares), bags, groups).items():
        values[f"{PRIOR}/{measure}"] = by_text
    return values


def _embed(backbone: Backbone, pooling: str, texts: Texts, device: torch.device) -> Tensor:
    """Return the vector of every text, [N, D]."""
    encoder = Encoder(backbone, pooling, Representations())
    count = len(texts.tokens)
    with TemporaryDirectory() as name, bar("embed", count, "texts") as advance:
        folder = Path(name)
        write_vectors(
            folder,
            encoder,
            texts.vocabulary,
            texts.tokens,
            kind="passage",
            max_length=texts.max_length,
            advance=advance,
        )
        return torch.from_numpy(Vectors.open(folder).dense(0, count)).to(device)


def _projections(
    backbone: Backbone, has_head: bool, base: Backbone | None, vectors: Tensor, texts: Texts
) -> dict[str, Projection]:
    """Return the projections that this encoder has. A base of another width projects nothing."""
    projections: dict[str, Projection] = {}
    if has_head:
        projections["own head"] = backbone.logits
    projections["tied embedding"] = lambda rows: F.linear(rows, backbone.word_matrix)
    if base is not None and base.word_matrix.shape == backbone.word_matrix.shape:
        projections["base's head"] = base.to(vectors.device).eval().logits
    projections["linear probe"] = _fit_probe(vectors[texts.measured :], texts)
    return projections


def _measure(
    project: Projection, vectors: Tensor, noise: Tensor, texts: Texts, groups: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    bags = texts.bags[: texts.measured]
    others = [*bags[1:], bags[0]]  # the texts are in a random order
    blocks: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        ranked = rank_words(_scores(project, vectors[block], texts), texts.is_word)
        values = measure_coverage(ranked, bags[block], groups)
        values["shuffled"] = measure_coverage(ranked, others[block], {})["R-coverage"]
        drawn = rank_words(_scores(project, noise[block], texts), texts.is_word)
        values["random"] = measure_coverage(drawn, bags[block], {})["R-coverage"]
        for measure, by_text in values.items():
            blocks.setdefault(measure, []).append(by_text)
    return {measure: np.concatenate(parts) for measure, parts in blocks.items()}


def _scores(project: Projection, vectors: Tensor, texts: Texts) -> np.ndarray:
    """Return the scores of the vocabulary's ids, [n, V], without rows of the word matrix beyond them."""
    scores: np.ndarray = project(vectors)[:, : texts.vocabulary.size].float().cpu().numpy()
    return scores


def _fit_probe(vectors: Tensor, texts: Texts) -> nn.Linear:
    """Return a linear map [D -> V] fitted to the bags of words of texts that are not measured, in one epoch."""
    bags = texts.bags[texts.measured :]
    center, scale = vectors.mean(0), vectors.std()
    prior = torch.from_numpy(texts.frequencies + 1).log()  # the best guess before a vector is read
    with torch.inference_mode(False):
        probe = nn.Linear(vectors.shape[1], texts.vocabulary.size).to(vectors.device)
        nn.init.zeros_(probe.weight)
        probe.bias.data.copy_(prior)
        optimizer = torch.optim.Adam(probe.parameters(), lr=PROBE_RATE)
        inputs = ((vectors - center) / scale).clone()  # a tensor of inference mode cannot be trained on
        for rows in _batches(len(bags)):
            ids, weights = bag_of_words([bags[row] for row in rows], "unique")
            loss = bag_loss(probe(inputs[rows]), ids.to(vectors.device), weights.to(vectors.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():  # fold the scaling into the probe
            probe.weight.div_(scale)
            probe.bias.sub_(probe.weight @ center)
    return probe


def _batches(count: int) -> Iterator[Sequence[int]]:
    rows = list(range(count))
    for start in range(0, count, PROBE_BATCH):
        yield rows[start : start + PROBE_BATCH]
