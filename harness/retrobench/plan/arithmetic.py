"""
What the work costs by arithmetic alone: FLOPs and bytes, a multiplication with its addition counting 2 FLOPs.

* Shape, BERT_BASE                          the sizes of an encoder that its costs depend on
* encoding, head, training, pretraining     FLOPs per token
* searching                                 FLOPs of an exact search
* state_bytes, activation_bytes, ...        what a step holds, and what a vector or a token takes on disk

Training counts three times the forward pass. The formulas are those of any BERT-like encoder; what a program really
does comes on top, so a time made of them is a floor.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BERT_BASE",
    "KNOWN_OBJECTIVES",
    "RUN_LINE",
    "TOKEN",
    "Shape",
    "activation_bytes",
    "encoding",
    "head",
    "pooled_bytes",
    "pretraining",
    "searching",
    "state_bytes",
    "training",
    "vector_bytes",
]

KNOWN_OBJECTIVES = ("mlm", "retromae", "bow-mae", "dupmae")

TOKEN = 3  # bytes per tokenised token: its id as uint16, and whether a word starts there
RUN_LINE = 48  # bytes per hit: about 40 as a line of a TREC run, 8 as arrays

# Values kept per token, layer and unit of width for the backward pass: 34 bytes where all is 16 bits wide (Korthikanti
# et al. 2022, arXiv:2205.05198, section 4.1, without their term for attention scores, which fused attention does not
# keep), twice that under autocast, which keeps residuals, norms and activations in 32 bits.
_KEPT = 68
# Parameters, gradients and AdamW's two moments in 32 bits, and the 16-bit copies that autocast makes.
_STATE = 18


@dataclass(frozen=True)
class Shape:
    """Layers, width, inner width, words and positions of an encoder."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int = 512

    @property
    def parameters(self) -> int:
        """Weights and biases of embeddings, layers and the masked-language-modelling head, the word matrix shared."""
        d, f = self.hidden, self.intermediate
        embeddings = (self.vocabulary + self.positions + 2) * d + 2 * d
        layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
        return embeddings + self.layers * layer + d * d + 3 * d + self.vocabulary


BERT_BASE = Shape(12, 768, 3072, 30522)


def _layer(shape: Shape, length: float) -> float:
    d = shape.hidden
    return 2 * (4 * d * d + 2 * d * shape.intermediate) + 4 * length * d


def head(shape: Shape) -> float:
    """The head's dense layer and the product with the word matrix, for one position."""
    return 2.0 * (shape.hidden**2 + shape.hidden * shape.vocabulary)


def encoding(shape: Shape, length: float, terms: bool = False) -> float:
    """FLOPs per token of embedding texts of `length` tokens; with `terms` the head scores all of them."""
    return shape.layers * _layer(shape, length) + (head(shape) if terms else 0)


def training(shape: Shape, length: float, terms: bool = False) -> float:
    """FLOPs per token of a training step over texts of `length` tokens, contrastive ones included."""
    return 3 * encoding(shape, length, terms)


def pretraining(shape: Shape, length: float, objective: str, mask_ratio: float) -> float:
    """FLOPs per token of a step under a known objective; any other counts as masked language modelling.

    Logits are taken where the objective needs them: at masked positions, at all of them for RetroMAE's decoder, and
    for DupMAE's bag at all of the encoder's too, which then serve the masked ones; at [CLS] alone for BoW prediction.
    """
    scored, decoder = 3 * head(shape), 3 * _layer(shape, length)
    added = {
        "retromae": mask_ratio * scored + decoder + scored,
        "dupmae": scored + decoder + scored,
        "bow-mae": mask_ratio * scored + scored / length,
    }
    return training(shape, length) + added.get(objective, mask_ratio * scored)


def searching(queries: int, documents: int, width: int) -> float:
    """FLOPs of all inner products of an exact search."""
    return 2.0 * queries * documents * width


def state_bytes(parameters: float) -> float:
    """Bytes that stay through a training under AdamW."""
    return _STATE * parameters


def activation_bytes(shape: Shape, tokens: float, layers: int = 0) -> float:
    """Bytes kept for the backward pass of `tokens` tokens, padding included; `layers` beside the encoder's."""
    return float(_KEPT * shape.hidden * (shape.layers + layers) * tokens)


def pooled_bytes(shape: Shape, texts: float) -> float:
    """Bytes of the vocabulary vectors of `texts`: logits, which token won, weights and the gradients of both."""
    return 20.0 * shape.vocabulary * texts


def vector_bytes(documents: int, width: int, terms: int = 0, number: int = 4) -> float:
    """Bytes of vectors of `number` bytes a number, and of each document's `terms` largest weights, whose numbers and
    words take 4 bytes each however vectors are stored."""
    return documents * (float(number) * width + 8.0 * terms)
