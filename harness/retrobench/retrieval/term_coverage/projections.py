"""
Text vectors projected to the vocabulary, and the coverage of each projection with its controls.

* measure_encoder    every measure of every text, under every projection
* measure_own_head   one number, under the encoder's own head
* vector_with_words  the vector whose words are measured

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
from retrobench.core import bar, processes
from retrobench.model import Backbone, Encoder, bag_loss, bag_of_words
from retrobench.retrieval import embedding
from retrobench.retrieval.term_coverage.texts import Texts
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring import measure_coverage, rank_words

__all__ = ["measure_encoder", "measure_own_head", "vector_with_words"]

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
    with TemporaryDirectory() as folder, bar("embed", len(texts.tokens), "texts") as advance:
        vectors = _embed(backbone, pooling, texts, Path(folder), advance).to(device)  # [N, D]
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


@torch.inference_mode()
def measure_own_head(backbone: Backbone, pooling: str, texts: Texts, folder: Path) -> float | None:
    """Return the mean R-coverage of all texts by the encoder's own head, above that of another text's words.

    The vectors are written into `folder`. Every process must call, with one folder, and embeds a part of the texts.
    Returns None on other ranks than 0, for texts without words, and for vectors that are not finite.
    """
    vectors = _embed(backbone, pooling, texts, folder, lambda count: None)
    if not processes.leads() or not vectors.isfinite().all():
        return None
    vectors = vectors.to(embedding.choose_device())
    backbone.to(vectors.device).eval()
    # Neighbours in a corpus are often of one article, so the other text is drawn.
    order = np.random.default_rng(0).permutation(len(vectors))
    others = np.empty_like(order)
    others[order] = np.roll(order, -1)
    differences = []
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        ranked = rank_words(_scores(backbone.logits, vectors[block], texts), texts.is_word)
        own = measure_coverage(ranked, texts.bags[block], {})["R-coverage"]
        other_bags = [texts.bags[row] for row in others[block]]
        differences.append(own - measure_coverage(ranked, other_bags, {})["R-coverage"])
    above = np.concatenate(differences)
    above = above[np.isfinite(above)]
    return float(above.mean()) if len(above) else None


def vector_with_words(representation: str) -> str:
    """Return `mean` for an encoder that is read by it, else `cls`."""
    return "mean" if representation == "mean" else "cls"


def _embed(backbone: Backbone, pooling: str, texts: Texts, folder: Path, advance: Callable[[int], None]) -> Tensor:
    """Write the vector of every text into a folder, and return all, [N, D]."""
    write_vectors(
        folder,
        Encoder(backbone, pooling, Representations()),
        texts.vocabulary,
        texts.tokens,
        kind="passage",
        max_length=texts.max_length,
        advance=advance,
    )
    processes.meet()
    return torch.from_numpy(Vectors.open(folder).dense(0, len(texts.tokens)))


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
