"""
What is run: tracks, entrants and experiments as frozen records.

* track        the records
* reading      records from TOML files and from the command line
* discovery    installed objectives
* fingerprint  a hash of a plugin's source
"""

from retrobench.config.discovery import Found, checked, configure, discover, get, parse_objective, preset
from retrobench.config.reading import REPRESENTATIONS, read_entrant, read_track
from retrobench.config.track import (
    DTYPES,
    Bm25,
    Distil,
    Entrant,
    Experiment,
    Finetune,
    Model,
    Optimisation,
    Precision,
    Pretrain,
    Representations,
    Titles,
    Track,
    counted,
)

__all__ = [
    "DTYPES",
    "REPRESENTATIONS",
    "Bm25",
    "Distil",
    "Entrant",
    "Experiment",
    "Finetune",
    "Found",
    "Model",
    "Optimisation",
    "Precision",
    "Pretrain",
    "Representations",
    "Titles",
    "Track",
    "checked",
    "configure",
    "counted",
    "discover",
    "get",
    "parse_objective",
    "preset",
    "read_entrant",
    "read_track",
]
