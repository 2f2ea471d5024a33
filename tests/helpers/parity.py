"""The recorded numbers of the official code (fixtures/parity/README.md says how they were made)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity"
LOSSES: dict[str, Any] = json.loads((FIXTURE / "losses.json").read_text())

# The official decoder's modules -> EnhancedDecoder's.
_MODULES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "project",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "output_norm",
}


def decoder_name(official: str) -> str:
    """Return our name of a parameter of the official decoder."""
    module, _, kind = official.removeprefix("c_head.").rpartition(".")
    return f"{_MODULES[module]}.{kind}"
