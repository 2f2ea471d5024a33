"""
A persistent cache of finished stages: keys are arguments, entries are directories.

* store     make each entry once, or find it
* entries   what a finished entry says of itself
"""

from retrobench.store.store import Artifact, Source, Store, default_root

__all__ = ["Artifact", "Source", "Store", "default_root"]
