"""The rows of each batch, and batches made ahead on another thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from retrobench.errors import RetrobenchError

__all__ = ["AHEAD", "Batches", "Feed", "Shard", "count_tokens", "map_tensors", "seeded"]

# Batches made ahead, by device. On a processor this would take time from the training itself.
AHEAD = {"cpu": 0, "cuda": 2}


def seeded(*numbers: int) -> int:
    """Return a seed below 2**63 from a few small integers.

    Different integers give different seeds, except that zeros at the end make no difference.
    """
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(seed >> np.uint64(1))


class Batches:
    """Chooses the rows of each batch from (seed, batch number) alone, so that any step can be repeated."""

    def __init__(self, lengths: np.ndarray, batch: int, bucket: int, seed: int, shards: int = 1) -> None:
        """Divide examples of `lengths` [N] tokens into batches of `batch` rows, and each batch into equal `shards`.

        `bucket` batches at a time are sorted by length; 0 keeps the random order. RetrobenchError for fewer examples
        than shards.
        """
        self.lengths = lengths
        self.bucket = bucket
        self.seed = seed
        self.shards = shards
        smallest = min(batch, len(lengths))
        self.size = smallest - smallest % shards
        if not self.size:
            raise RetrobenchError(
                f"{len(lengths)} training examples cannot be cut into {shards} shards. "
                f"Set shards to {max(1, len(lengths))} or fewer, or train on more examples."
            )
        self._epoch_number = -1
        self._epoch_batches = np.zeros((0, 0), np.int64)

    def rows(self, number: int) -> np.ndarray:
        """Return the rows of batch `number`; each epoch is a new permutation without the last incomplete batch."""
        epoch, index = divmod(number, len(self.lengths) // self.size)
        if epoch != self._epoch_number:
            self._epoch_number = epoch
            self._epoch_batches = self._epoch(epoch)
        return self._epoch_batches[index]  # type: ignore[no-any-return]

    def shard(self, number: int, shard: int) -> np.ndarray:
        """Return the rows of one shard of batch `number`."""
        size = self.size // self.shards
        return self.rows(number)[shard * size : (shard + 1) * size]

    def _epoch(self, epoch: int) -> np.ndarray:
        """Return all batches of an epoch, [batches, size]."""
        random = np.random.default_rng([self.seed, epoch])
        count = len(self.lengths) // self.size
        rows = random.permutation(len(self.lengths))[: count * self.size]
        if not self.bucket:
            return rows.reshape(count, self.size)
        span = self.bucket * self.size
        buckets = []
        for start in range(0, len(rows), span):
            bucket = rows[start : start + span]
            order = np.argsort(self.lengths[bucket], kind="stable")
            buckets.append(bucket[order])
        batches = np.concatenate(buckets).reshape(count, self.size)
        return random.permutation(batches)


class Shard(NamedTuple):
    """One of the equal parts of a batch, collated."""

    rows: np.ndarray
    seed: int  # of torch's default generators while a model reads this shard
    batch: Any
    tokens: float  # real tokens


class Feed:
    """Gives shards in order; another thread makes `ahead` of them while the device computes."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.pool = ThreadPoolExecutor(1) if ahead else None
        self.waiting: dict[int, Future[Shard]] = {}

    def take(self, number: int, end: int, make: Callable[[int], Shard]) -> Shard:
        """Return shard `number`; `end` is the number after the last. `make` makes a shard."""
        # A `make` that stood in the feed would close a cycle, which keeps files mapped until it is collected.
        if self.pool is None:
            return make(number)
        for next_number in range(number, min(number + self.ahead + 1, end)):
            if next_number not in self.waiting:
                self.waiting[next_number] = self.pool.submit(make, next_number)
        return self.waiting.pop(number).result()


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with `function` applied to each of its tensors, also within mappings and tuples."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(value, function) for name, value in batch.items()}
    if not isinstance(batch, tuple):
        return batch
    values = [map_tensors(value, function) for value in batch]
    if hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*values)
    return tuple(values)


def count_tokens(batch: Any) -> float:
    """Return the number of real tokens in a batch: the sum of all its attention masks."""
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        batch = batch._asdict()
    if isinstance(batch, tuple):
        return sum(map(count_tokens, batch))
    if not isinstance(batch, Mapping):
        return 0.0
    total = 0.0
    for name, value in batch.items():
        if isinstance(value, Tensor) and name.endswith("attention_mask"):
            total += float(value.sum())
        else:
            total += count_tokens(value)
    return total
