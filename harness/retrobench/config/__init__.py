"""
What is run: tracks, entrants and experiments as frozen records.

* track        records of a track, a section of its file each
* experiment   an entrant under a track, with a seed
* reading      records from TOML files and from the command line
* keys         every key of a track, with type, default and meaning
* discovery    installed objectives
* fingerprint  a hash of a plugin's source
"""

from retrobench.config.discovery import Found, checked, configure, discover, get, parse_objective, preset
from retrobench.config.experiment import BASELINES, Baseline, Bm25, Entrant, Experiment
from retrobench.config.keys import TrackKey, track_keys
from retrobench.config.reading import REPRESENTATIONS, read_entrant, read_track
from retrobench.config.track import (
    DTYPES,
    Distil,
    Finetune,
    FinetunePerformance,
    Model,
    Optimisation,
    Performance,
    Precision,
    Pretrain,
    Reading,
    Representations,
    Titles,
    Track,
)

__all__ = [
    "BASELINES",
    "DTYPES",
    "REPRESENTATIONS",
    "Baseline",
    "Bm25",
    "Distil",
    "Entrant",
    "Experiment",
    "Finetune",
    "FinetunePerformance",
    "Found",
    "Model",
    "Optimisation",
    "Performance",
    "Precision",
    "Pretrain",
    "Reading",
    "Representations",
    "Titles",
    "Track",
    "TrackKey",
    "checked",
    "configure",
    "discover",
    "get",
    "parse_objective",
    "preset",
    "read_entrant",
    "read_track",
    "track_keys",
]
