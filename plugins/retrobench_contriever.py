"""Contriever: two crops of a document find each other among a queue of earlier crops (momentum contrast)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from annotated_types import Ge, Gt, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import numpy as np
    import torch

    from retrobench.model import Backbone, Pretraining

Words = tuple["np.ndarray", "np.ndarray"]  # token ids [n], and whether a word starts there [n]


@dataclass(frozen=True)
class Contriever:
    """The mean vector of a crop finds that of another crop of its document, among the crops of earlier batches.

    Adds a key encoder, a moving average of the backbone, and a queue of its vectors; both are thrown away. Loss:
    cross-entropy of the own key against the queue. The other keys of a batch are no negatives.

    The queue begins with random unit vectors, easy negatives. Where a training makes fewer keys than the queue holds,
    they stay to the end: see `queue_filled` in the log, and the preset `small`.

    Each visit draws a window of at most 256 tokens of a document, and two crops of it. The release cuts all documents,
    joined into one stream, into such pieces. Weight decay and clipping are the track's; the release decays biases and
    norms too, and does not clip.
    """

    # Places in facebookresearch/contriever@39fb220: example_scripts/contriever.sh, src/data.py. The README's command
    # differs: a queue of 65,536 and crops from 0.1.
    queue: Annotated[int, Ge(1)] = 131_072  # keys (contriever.sh:22)
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9995  # of the key encoder (contriever.sh:21)
    temperature: Annotated[float, Gt(0)] = 0.05  # contriever.sh:23
    window: Annotated[int, Ge(1)] = 256  # tokens (contriever.sh:39)
    min_crop: Annotated[float, Interval(gt=0, le=1)] = 0.05  # share of the window's tokens (contriever.sh:19)
    max_crop: Annotated[float, Interval(gt=0, le=1)] = 0.5  # contriever.sh:20
    deletion: Annotated[float, Interval(ge=0, lt=1)] = 0.1  # share of a crop's tokens (contriever.sh:25-26)
    normalise: bool = False  # unit vectors, by --norm_query and --norm_doc, which the command does not have

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "contriever"
    paper: ClassVar[str] = "Izacard et al., TMLR 2022, arXiv:2112.09118"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    representation: ClassVar[str] = "mean"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {},
        "paper": {},  # appendix A.1 has the released values
        "small": {"queue": 2048},  # 64 batches of `mini`, as the released queue holds 64 of the release's
    }

    def __post_init__(self) -> None:
        """ValueError where the shortest crop is longer than the longest."""
        if self.min_crop > self.max_crop:
            raise ValueError(f"min_crop must be at most max_crop, {self.max_crop:g}, got {self.min_crop:g}")

    def examples(self, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Leave out documents that are too short for a crop of one token; a length is that of the longest crop."""
        import numpy as np

        longest_crops = np.minimum(lengths, self.window) * self.max_crop
        documents = np.flatnonzero(longest_crops > 1)
        return documents, longest_crops[documents].astype(np.int64) + 2

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return two rows a passage: the crops of all queries, then those of all keys."""
        import numpy as np
        import torch

        from retrobench.model import pack

        draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        queries, keys = [], []
        for passage in passages:
            words = self._window(passage, draw)
            queries.append(self._crop(words, draw))
            keys.append(self._crop(words, draw))
        packed = pack(queries + keys, vocabulary, max_length)
        return {"input_ids": packed.input_ids, "attention_mask": packed.attention_mask}

    def _window(self, passage: Passage, draw: np.random.Generator) -> Words:
        """Draw consecutive tokens of a document, its title first; a short document is one window."""
        import numpy as np

        ids = np.concatenate([passage.title, passage.text])
        starts = np.concatenate([passage.title_starts, passage.text_starts])
        first = draw.integers(max(0, len(ids) - self.window) + 1)
        window = slice(first, first + self.window)
        return ids[window], starts[window]

    def _crop(self, words: Words, draw: np.random.Generator) -> Passage:
        """Draw consecutive tokens of a window, and delete some; the crop may be empty."""
        ids, starts = words
        share = draw.uniform(self.min_crop, self.max_crop)
        length = int(len(ids) * share)
        first = draw.integers(len(ids) - length + 1)
        crop = slice(first, first + length)
        remains = draw.random(length) >= self.deletion
        no_title = slice(0)
        return Passage(ids[no_title], starts[no_title], ids[crop][remains], starts[crop][remains])

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from copy import deepcopy

        import torch
        from torch.nn.functional import normalize

        from retrobench.model import Pretraining

        # It stays in training mode, so keys have dropout too, as in the release.
        key_encoder = deepcopy(backbone).requires_grad_(False)
        model = Pretraining(backbone, self.step, couple=self.couple, begin=self.begin, key_encoder=key_encoder)
        model.register_buffer("queue", normalize(torch.randn(self.queue, backbone.config.hidden_size)))
        model.register_buffer("keys_made", torch.zeros((), dtype=torch.int64))
        return model

    def begin(self, model: Pretraining, progress: float) -> None:
        """Move the key encoder towards the query encoder."""
        key_encoder = cast("Backbone", model.key_encoder)
        for key, query in zip(key_encoder.parameters(), model.backbone.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)

    def step(self, model: Pretraining, progress: float, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Step:
        """Encode a shard's queries and keys; the vectors are [n, 2, D]."""
        import torch

        query_ids, key_ids = input_ids.chunk(2)
        query_mask, key_mask = attention_mask.chunk(2)
        queries = self._encode(model.backbone, query_ids, query_mask)
        # After the queries: a backward pass that computes them again stops there, without the keys.
        with torch.no_grad():
            keys = self._encode(cast("Backbone", model.key_encoder), key_ids, key_mask)
        return Step({}, {}, torch.stack([queries, keys], 1))

    def _encode(self, encoder: Backbone, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import normalize

        from retrobench.model import mean_pooled

        hidden = encoder.hidden(input_ids, attention_mask)  # [n, L, D]
        vectors = mean_pooled(hidden.float(), attention_mask)
        if self.normalise:
            return normalize(vectors)
        return vectors

    def couple(self, model: Pretraining, progress: float, vectors: torch.Tensor) -> Step:
        """Compare queries with their keys and the queue, then put the keys [N, D] in front of the queue.

        The oldest keys leave. The order within the queue does not matter, so it needs no pointer and takes any batch.
        """
        import torch
        from torch.nn.functional import softplus

        queries, keys = vectors.unbind(1)
        keys = keys.detach()
        queue = cast("torch.Tensor", model.queue)
        keys_made = cast("torch.Tensor", model.keys_made)
        own = (queries * keys).sum(1) / self.temperature  # [N]
        others = (queries / self.temperature) @ queue.T  # [N, queue]
        # The cross-entropy of the own key among all: no copy of the scores is made to put it beside them.
        losses = softplus(others.logsumexp(1) - own)
        # A new tensor, because the backward pass reads the old one.
        remaining = max(0, len(queue) - len(keys))
        model.queue = torch.cat([keys[: len(queue)], queue[:remaining]])
        metrics = {
            "accuracy": (own > others.detach().amax(1)).float().mean(),
            "queue_filled": (keys_made / len(queue)).clamp(max=1.0),
        }
        keys_made += len(keys)
        return Step({"contrastive": losses.mean()}, metrics)


@hookimpl
def retrobench_objectives() -> Sequence[type[Contriever]]:
    return [Contriever]
