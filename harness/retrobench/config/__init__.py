"""
Tracks, entrants and experiments as frozen records.

* track        a record for each section of a track's file.
* baseline     the lexical baseline and its presets.
* experiment   an entrant under a track, with a seed.
* reading      tracks from TOML files and from the command line.
* composition  objectives that are trained together.
* composed     their batches and module.
* entrants     entrants from names, TOML files and the command line.
* limit        shorter trainings for a limit on the data.
* keys         every key of a track, with type, default and meaning.
* discovery    installed objectives.
* fingerprint  a hash of a plugin's source.
"""

from retrobench.config.baseline import BASELINES, Baseline, Bm25
from retrobench.config.composition import Component, Composition
from retrobench.config.discovery import (
    InstalledObjective,
    check_objective_class,
    configure_objective,
    discover,
    find_objective,
    find_preset,
    parse_objective,
    split_stages,
)
from retrobench.config.entrants import REPRESENTATIONS, read_entrant
from retrobench.config.experiment import Entrant, Experiment
from retrobench.config.keys import TrackKey, track_keys
from retrobench.config.reading import read_track, resolve
from retrobench.config.track import (
    DTYPES,
    INTERVALS,
    KNOBS,
    Attention,
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
    ResolvedPrecision,
    Titles,
    Track,
)

__all__ = [
    "BASELINES",
    "DTYPES",
    "INTERVALS",
    "KNOBS",
    "REPRESENTATIONS",
    "Attention",
    "Baseline",
    "Bm25",
    "Component",
    "Composition",
    "Distil",
    "Entrant",
    "Experiment",
    "Finetune",
    "FinetunePerformance",
    "InstalledObjective",
    "Model",
    "Optimisation",
    "Performance",
    "Precision",
    "Pretrain",
    "Reading",
    "Representations",
    "ResolvedPrecision",
    "Titles",
    "Track",
    "TrackKey",
    "check_objective_class",
    "configure_objective",
    "discover",
    "find_objective",
    "find_preset",
    "parse_objective",
    "read_entrant",
    "read_track",
    "resolve",
    "split_stages",
    "track_keys",
]
