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
* declaration  an objective's class, its presets and settings.
* plugins      the sources of objectives: distributions, files, folders.
* neighbours   import of a plugin's file with the modules beside it.
* discovery    installed objectives.
* fingerprint  a plugin's source files, and a hash of them.
"""

from retrobench.config.baseline import BASELINES, Baseline, Bm25
from retrobench.config.composition import Component, Composition
from retrobench.config.declaration import (
    REPRESENTATIONS,
    check_objective_class,
    configure_objective,
    find_preset,
    own_settings,
    split_stages,
)
from retrobench.config.discovery import (
    InstalledObjective,
    discover,
    find_objective,
    names_a_path,
    parse_objective,
)
from retrobench.config.entrants import read_entrant
from retrobench.config.experiment import Entrant, Experiment, absent_datasets
from retrobench.config.fingerprint import source_files
from retrobench.config.keys import TrackKey, as_in_toml, field_comments, track_keys
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
    Probe,
    Reading,
    Representations,
    ResolvedPrecision,
    Titles,
    Track,
    with_added,
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
    "Probe",
    "Reading",
    "Representations",
    "ResolvedPrecision",
    "Titles",
    "Track",
    "TrackKey",
    "absent_datasets",
    "as_in_toml",
    "check_objective_class",
    "configure_objective",
    "discover",
    "field_comments",
    "find_objective",
    "find_preset",
    "names_a_path",
    "own_settings",
    "parse_objective",
    "read_entrant",
    "read_track",
    "resolve",
    "source_files",
    "split_stages",
    "track_keys",
    "with_added",
]
