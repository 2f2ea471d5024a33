"""Shorter trainings for a limit on the data, so that a trial of a track is there in a minute."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from retrobench.config.track import Mine, Optimisation
from retrobench.errors import RetrobenchError

__all__ = ["shorten"]

PASSES = 2  # of a training over the limited examples
BATCHES = 10  # in a pass, at least; and optimizer steps in a training
LEAST_BATCH = 8  # examples
WARMUP = 0.1  # share of the steps, in place of a number of steps
CANDIDATES = 10  # documents for each mined candidate

# Settings that name documents of the whole corpus, of which a limit keeps hardly any.
UNLIMITED = (("finetune", "hard"), ("distil", "scores"))


def shorten(sections: Mapping[str, Any], typed: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return a track's sections with trainings that fit its limit; without a limit, the sections as they are.

    A training makes two passes over the limited examples, in batches of at most a tenth of them, and never more steps
    or larger batches than the track's. Hard negatives and scores from files are left out. The keys that were `typed` on
    the command line, by section, keep their values. RetrobenchError where one of them names such a file.
    """
    limit = sections["data"].limit
    shortened = dict(sections)
    if not limit:
        return shortened
    for name, settings in sections.items():
        keys = typed.get(name, ())
        changes: dict[str, Any] = {}
        if isinstance(settings, Optimisation):
            changes = _shorten_training(settings, limit, keys)
        elif isinstance(settings, Mine):
            most = max(1, limit // CANDIDATES)
            changes = {"depth": min(settings.depth, most), "skip": min(settings.skip, most)}
        changes |= {key: "" for section, key in UNLIMITED if section == name}
        untyped = {key: value for key, value in changes.items() if key not in keys}
        if untyped:
            shortened[name] = replace(settings, **untyped)
    for section, key in UNLIMITED:
        if getattr(shortened[section], key):
            raise RetrobenchError(
                f"{section}.{key} names documents of the whole corpus, and data.limit is {limit}. "
                f"Leave out {section}.{key} or the limit."
            )
    return shortened


def _shorten_training(settings: Optimisation, limit: int, typed: Collection[str]) -> dict[str, Any]:
    """Return the settings of a training that a limit changes."""
    batch = settings.batch
    if "batch" not in typed:
        batch = min(batch, max(LEAST_BATCH, limit // BATCHES))
        batch = max(settings.shards, batch - batch % settings.shards)  # shards divide a batch
    changes: dict[str, Any] = {"batch": batch}
    if settings.epochs:
        changes["epochs"] = min(settings.epochs, float(PASSES))
        is_shorter = True  # an epoch has fewer steps
    else:
        steps = math.ceil(PASSES * limit / batch)
        changes["steps"] = min(settings.steps, max(BATCHES, steps))
        is_shorter = changes["steps"] < settings.steps
    if is_shorter and settings.warmup >= 1:
        changes["warmup"] = WARMUP
    return changes
