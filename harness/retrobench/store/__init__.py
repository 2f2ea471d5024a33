"""
A persistent cache of finished stages: keys are arguments, entries are directories.

* store      makes each entry once.
* entries    the record in a finished entry.
* schedule   the stages that are still to come, and their time.
"""

from retrobench.store.entries import entry_fault, read_objective, read_settings, read_stage
from retrobench.store.schedule import Rehearsal, Schedule
from retrobench.store.store import Artifact, Source, Store, default_root

__all__ = [
    "Artifact",
    "Rehearsal",
    "Schedule",
    "Source",
    "Store",
    "default_root",
    "entry_fault",
    "read_objective",
    "read_settings",
    "read_stage",
]
