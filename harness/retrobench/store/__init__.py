"""
A persistent cache of finished stages: keys are arguments, entries are directories.

* store      makes each entry once.
* entries    the record in a finished entry.
* folders    the folders of a key.
* contents   the items of a store.
* locks      the lock of a key, and its holder.
* schedule   the stages that are still to come, and their time.
"""

from retrobench.store.contents import Item, list_items, remove
from retrobench.store.entries import entry_fault, read_objective, read_settings, read_stage
from retrobench.store.schedule import Rehearsal, Schedule
from retrobench.store.store import Artifact, Source, Store, default_root

__all__ = [
    "Artifact",
    "Item",
    "Rehearsal",
    "Schedule",
    "Source",
    "Store",
    "default_root",
    "entry_fault",
    "list_items",
    "read_objective",
    "read_settings",
    "read_stage",
    "remove",
]
