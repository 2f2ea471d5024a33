"""The parts of each objective's step beside the encoder, for estimates of arithmetic and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KNOWN_OBJECTIVES", "MASKED", "Parts", "parts_of"]

MASKED = 0.15  # BERT's share of masked tokens, for an objective without such a setting


@dataclass(frozen=True)
class Parts:
    """Counts beside one pass of the encoder over the tokens of a text."""

    logits: float  # share of tokens that go through the head; 2 where all do so twice
    one_position: int = 0  # logits of one position of a text
    decoder: int = 0  # layers with gradients
    forwards: int = 0  # passes of an encoder without gradients
    pooled: int = 0  # stored vocabulary vectors of a text
    kept: int = 0  # models of the encoder's size that are not trained


def _mlm(masked: float, settings: Mapping[str, Any]) -> Parts:
    return Parts(masked)


def _bow(masked: float, settings: Mapping[str, Any]) -> Parts:
    return Parts(masked, one_position=1)


def _retromae(masked: float, settings: Mapping[str, Any]) -> Parts:
    return Parts(masked + 1, decoder=1)


def _dupmae(masked: float, settings: Mapping[str, Any]) -> Parts:
    return Parts(2, decoder=1, pooled=1)  # the encoder's logits at all positions serve the masked ones


def _condenser(masked: float, settings: Mapping[str, Any]) -> Parts:
    return Parts(2 * masked, decoder=int(settings.get("head_layers", 2)))


def _cot_mae(masked: float, settings: Mapping[str, Any]) -> Parts:
    decoder_masked = float(settings.get("decoder_mask_ratio", MASKED))
    return Parts(masked + decoder_masked, decoder=int(settings.get("decoder_layers", 2)))


def _simlm(masked: float, settings: Mapping[str, Any]) -> Parts:
    # The generator reads the texts of encoder and decoder. Its size is taken to be the encoder's.
    return Parts(2, decoder=int(settings.get("decoder_layers", 2)), forwards=2, kept=1)


def _lexmae(masked: float, settings: Mapping[str, Any]) -> Parts:
    decoder_masked = float(settings.get("decoder_mask_ratio", MASKED))
    decoder = int(settings.get("decoder_layers", 2))
    return Parts(1 + masked + decoder_masked, decoder=decoder, pooled=1)


def _contriever(masked: float, settings: Mapping[str, Any]) -> Parts:
    return Parts(0, forwards=1, kept=1)


PARTS = {
    "mlm": _mlm,
    "bow-mae": _bow,
    "retromae": _retromae,
    "dupmae": _dupmae,
    "condenser": _condenser,
    "cocondenser": _condenser,
    "cot-mae": _cot_mae,
    "simlm": _simlm,
    "lexmae": _lexmae,
    "contriever": _contriever,
}
KNOWN_OBJECTIVES = tuple(PARTS)


def parts_of(objective: str, settings: Mapping[str, Any]) -> Parts:
    """Return the parts of an objective with its settings; an unknown one counts as masked language modelling."""
    masked = float(settings.get("mask_ratio", MASKED))
    return PARTS.get(objective, _mlm)(masked, settings)
