"""
Compute FLOPs and bytes by arithmetic alone; a multiplication with its addition counts as 2 FLOPs.

* Shape, BERT_BASE                          the sizes of an encoder on which its costs depend
* encoding, head, training, pretraining     FLOPs per token
* searching                                 FLOPs of an exact search
* state_bytes, activation_bytes, ...        memory of a step, and the size of a vector or a token on disk

Training counts three times the forward pass. The formulas hold for any BERT-like encoder. A real program does more,
so a time computed from them is a floor.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrobench.plan.parts import Parts

__all__ = [
    "BERT_BASE",
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

CHECKPOINT = 12  # bytes per parameter: weights and two moments in 32 bits
TOKEN = 3  # bytes per tokenised token: its id as uint16, and a flag for the start of a word
RUN_LINE = 48  # bytes per hit: about 40 as a line of a TREC run, 8 as arrays

# Bytes per token, layer and unit of width that the backward pass needs. In 16 bits they are 34 (Korthikanti et al.
# 2022, arXiv:2205.05198, section 4.1, without attention scores, which fused attention does not store). Autocast takes
# twice as many: it stores residuals, norms and activations in 32 bits.
_ACTIVATION_BYTES = 68
# Bytes per parameter: itself, its gradient and AdamW's two moments in 32 bits, and autocast's 16-bit copy.
_STATE_BYTES = 18


@dataclass(frozen=True)
class Shape:
    """Hold layers, width, inner width, words and positions of an encoder."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int = 512

    @property
    def parameters(self) -> int:
        """
        Count the weights and biases of embeddings, layers and the masked-language-modelling head.

        The head shares the word matrix of the embeddings.
        """
        width = self.hidden
        inner = self.intermediate
        embeddings = (self.vocabulary + self.positions + 2) * width + 2 * width
        attention = 4 * (width * width + width)
        feed_forward = 2 * width * inner + inner + width
        layer = attention + feed_forward + 4 * width
        head = width * width + 3 * width + self.vocabulary
        return embeddings + self.layers * layer + head


BERT_BASE = Shape(12, 768, 3072, 30522)


def _layer(shape: Shape, length: float) -> float:
    width = shape.hidden
    matrices = 4 * width * width + 2 * width * shape.intermediate
    return 2 * matrices + 4 * length * width


def head(shape: Shape) -> float:
    """Return FLOPs of the head's dense layer and its product with the word matrix, for one position."""
    return 2.0 * (shape.hidden**2 + shape.hidden * shape.vocabulary)


def encoding(shape: Shape, length: float, terms: bool = False) -> float:
    """Return FLOPs per token of embedding texts of `length` tokens; with `terms` the head scores every token."""
    layers = shape.layers * _layer(shape, length)
    if terms:
        return layers + head(shape)
    return layers


def training(shape: Shape, length: float, terms: bool = False) -> float:
    """Return FLOPs per token of a training step over texts of `length` tokens, contrastive steps included."""
    return 3 * encoding(shape, length, terms)


def pretraining(shape: Shape, length: float, parts: Parts) -> float:
    """Return FLOPs per token of a pre-training step over texts of `length` tokens."""
    logits = 3 * head(shape)
    decoder = 3 * parts.decoder * _layer(shape, length)
    forwards = parts.forwards * encoding(shape, length)
    return training(shape, length) + forwards + decoder + logits * (parts.logits + parts.one_position / length)


def searching(queries: int, documents: int, width: int) -> float:
    """Return FLOPs of all inner products of an exact search."""
    return 2.0 * queries * documents * width


def state_bytes(parameters: float) -> float:
    """Return the bytes that stay allocated throughout a training under AdamW."""
    return _STATE_BYTES * parameters


def activation_bytes(shape: Shape, tokens: float, layers: int = 0) -> float:
    """Return the bytes that the backward pass of `tokens` tokens needs; `layers` are added to the encoder's."""
    return float(_ACTIVATION_BYTES * shape.hidden * (shape.layers + layers) * tokens)


def pooled_bytes(shape: Shape, texts: float) -> float:
    """Return the bytes of `texts` vocabulary vectors: logits, index of the best token, weights, both gradients."""
    return 20.0 * shape.vocabulary * texts


def vector_bytes(documents: int, width: int, terms: int = 0, number: int = 4) -> float:
    """
    Return the bytes of dense vectors of `number` bytes a number, and of each document's `terms` largest weights.

    A weight and its word take 4 bytes each, whatever the format of the vectors.
    """
    dense = float(number) * width
    return documents * (dense + 8.0 * terms)
