"""
Passages to vectors: ours beside sentence-transformers, the same [CLS]-pooled BERT with random weights.

Ours is the stage of a run, from the tokens that `tokenise` wrote to vectors on the disk, and `evaluate`, from texts.
The peer's `encode` goes from texts to memory; words are whole tokens here, so that tokenising is as cheap as can be.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, Setting, UnequalError
from retrobench.bench.models import Scale, bert, encoder
from retrobench.bench.texts import VOCABULARY, lengths, passages, write_untitled
from retrobench.data import TokenisedTexts
from retrobench.model import Backbone
from retrobench.plan import arithmetic
from retrobench.retrieval import Choices, PublishedEncoder, Vectors, load_published, write_vectors

__all__ = ["LONGEST", "Sides", "cases", "ndcg", "text_of", "tokenizer"]

LONGEST = 150
COSINE, COSINE_HALVED, NDCG = 0.9999, 0.999, 0.002
SAMPLE = 64  # passages that are compared
CUT = 0.7  # share of a passage's tokens that stand in its query
SPREAD = 0.05  # texts are told apart by such weights, which BERT's own 0.02 hardly does

# A round embeds a batch.
SMOKE = Scale(5, 192, 6, 768, 64, LONGEST, spread=SPREAD)
SMALL = Scale(6, 384, 12, 1536, 192, LONGEST, spread=SPREAD)
BASE = Scale(12, 768, 12, 3072, 16384, LONGEST, spread=SPREAD)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield encoding from tokens in bf16, and from texts in the precision that was published."""
    sizes = setting.choose(smoke=SMOKE, cpu=SMALL, cuda=BASE)
    flops = _flops(sizes)
    case = partial(Case, unit="passages/s", memory=False)
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(Path(folder), sizes, setting)
        yield case(
            name="from tokens in bf16, against its default from texts",
            ours=sides.ours,
            check=sides.same,
            peer=partial(sides.theirs, halved=False),
            peer_name="sentence-transformers, default",
            floor=Floor(flops),
            rounds=5,
        )
        yield case(
            name="from tokens in bf16, against its bf16 from texts",
            ours=sides.ours,
            check=sides.ranks_the_same,
            peer=partial(sides.theirs, halved=True),
            peer_name="sentence-transformers, bf16",
            floor=Floor(flops),
            rounds=5,
        )
        yield case(
            name="both from texts in fp32",
            ours=sides.published,
            check=sides.same_published,
            peer=partial(sides.theirs, halved=False),
            peer_name="sentence-transformers, default",
            floor=Floor(flops, precision="fp32"),
            rounds=3,
            warmups=0,  # both have been at work
        )


def _flops(sizes: Scale) -> float:
    """Return the FLOPs of a passage of mean length; the last layer is needed for [CLS] alone, and left out."""
    tokens = float(lengths(sizes.batch, sizes.length).mean())
    return tokens * arithmetic.encoding(replace(sizes.shape, layers=sizes.layers - 1), tokens)


class Sides:
    """The same model and passages on either side; every call of ours writes into a new folder."""

    def __init__(self, folder: Path, sizes: Scale, setting: Setting) -> None:
        self.folder, self.device, self.calls = folder, setting.device, 0
        self.ids = [passage.text for passage in passages(lengths(sizes.batch, LONGEST))]
        self.texts = [text_of(ids) for ids in self.ids]
        _write(folder / "tokens", self.ids)
        _write(folder / "sample", self.ids[:SAMPLE])
        self.model = encoder(Backbone(bert(sizes)))
        (folder / "model").mkdir()
        self.model.save(folder / "model", tokenizer(), LONGEST)

    @cached_property
    def peer(self) -> Any:
        """The folder as sentence-transformers loads it."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.folder / "model"), device=self.device)

    @cached_property
    def loaded(self) -> PublishedEncoder:
        """The folder as `evaluate` loads it."""
        return load_published(str(self.folder / "model"), Choices())

    def ours(self) -> float:
        """Do a round of the stage, in bf16."""
        self._stage("tokens", True)
        return float(len(self.texts))

    def published(self) -> float:
        """Do a round of `evaluate`."""
        pairs = [(str(row), text) for row, text in enumerate(self.texts)]
        self.loaded.write(self._next(), pairs, len(pairs), "passage", lambda n: None)
        return float(len(self.texts))

    def theirs(self, halved: bool) -> float:
        """Do a round of the peer."""
        self._peer(self.texts, halved)
        return float(len(self.texts))

    def same(self) -> str:
        """Compare vectors: equal in fp32, close in bf16; the next case compares rankings."""
        theirs = self._peer(self.texts[:SAMPLE], False)
        reports = []
        for precision, least in (("fp32", COSINE), ("bf16", COSINE_HALVED)):
            ours = self._vectors("sample", precision == "bf16")
            reports.append(_alike(ours, theirs, precision, least))
        return ", ".join(reports)

    def same_published(self) -> str:
        """Compare vectors, of unit length where similarity is by cosine."""
        sample = self.texts[:SAMPLE]
        return _alike(self.loaded.embed(sample, "passage"), self._peer(sample, False), "fp32", COSINE)

    def ranks_the_same(self) -> str:
        """Compare nDCG@10 with shortened passages as queries: ours in bf16, the peer in fp32."""
        texts = self.texts[: 4 * SAMPLE]
        queries = [ids[: max(2, int(CUT * len(ids)))] for ids in self.ids[: len(texts)]]
        if not (self.folder / "queries").exists():
            _write(self.folder / "queries", queries)
        ours = ndcg(self._vectors("queries", True), self._vectors("tokens", True)[: len(texts)])
        peer = ndcg(self._peer([text_of(ids) for ids in queries], False), self._peer(texts, False))
        if not abs(ours - peer) <= NDCG:
            raise UnequalError(f"nDCG@10 is {ours:.4f} in bf16 and {peer:.4f} in fp32. Nothing was timed.")
        return f"nDCG@10 {ours:.4f} in bf16, {peer:.4f} in fp32"

    def _stage(self, tokens: str, halved: bool) -> Path:
        """Encode a folder of tokens as a run does; return the folder of its vectors."""
        source, folder = TokenisedTexts.open(self.folder / tokens), self._next()
        write_vectors(folder, self.model, VOCABULARY, source, "passage", LONGEST, halved, {}, "encode")
        return folder

    def _vectors(self, tokens: str, halved: bool) -> np.ndarray:
        vectors = Vectors.open(self._stage(tokens, halved))
        return vectors.dense(0, len(vectors))

    def _peer(self, texts: list[str], halved: bool) -> np.ndarray:
        with torch.autocast(self.device, torch.bfloat16, enabled=halved):
            return np.asarray(self.peer.encode(texts, show_progress_bar=False), np.float32)

    def _next(self) -> Path:
        """Make a folder for the next call."""
        self.calls += 1
        folder = self.folder / str(self.calls)
        folder.mkdir()
        return folder


def ndcg(queries: np.ndarray, documents: np.ndarray) -> float:
    """Return nDCG@10 by cosine, where document i alone is relevant to query i."""
    scores = F.normalize(torch.from_numpy(queries)) @ F.normalize(torch.from_numpy(documents)).T
    ranks = (scores > scores.diagonal()[:, None]).sum(1)
    return float(torch.where(ranks < 10, 1 / torch.log2(ranks + 2.0), 0.0).mean())


def _alike(ours: np.ndarray, theirs: np.ndarray, precision: str, least: float) -> str:
    cosines = torch.cosine_similarity(torch.from_numpy(ours).double(), torch.from_numpy(theirs).double())
    lowest = float(cosines.min())
    if math.isnan(lowest) or lowest < least:
        raise UnequalError(
            f"vectors in {precision}: the least cosine is {lowest:.6f}, of at least {least}. Nothing was timed."
        )
    return f"cosine >= {lowest:.7f} in {precision}"


def tokenizer() -> Any:
    """Return a tokenizer with one word for each id, so that a text says exactly which tokens it has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    names = {"[PAD]": VOCABULARY.pad, "[UNK]": 100, "[CLS]": VOCABULARY.cls, "[SEP]": VOCABULARY.sep}
    names |= {"[MASK]": VOCABULARY.mask}
    words = {f"w{number}": number for number in range(VOCABULARY.size) if number not in names.values()}
    pieces = Tokenizer(models.WordLevel({**names, **words}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pieces.post_processor = BertProcessing(("[SEP]", VOCABULARY.sep), ("[CLS]", VOCABULARY.cls))
    special = {f"{name[1:-1].lower()}_token": name for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **special)  # type: ignore[no-untyped-call]


def text_of(ids: np.ndarray) -> str:
    """Return the words of token ids."""
    return " ".join(f"w{number}" for number in ids)


def _write(folder: Path, texts: Sequence[np.ndarray]) -> None:
    write_untitled(folder, np.concatenate(texts), np.asarray([len(ids) for ids in texts]))
