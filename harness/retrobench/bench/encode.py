"""
Passages to vectors: ours beside sentence-transformers, the same [CLS]-pooled BERT with random weights.

Ours is what a run does, from the tokens that its stage `tokenise` left to vectors on the disk, and what `evaluate` does
from texts. The peer's `encode` goes from texts to memory; words are whole tokens here, so that tokenising is as cheap
for it as can be.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, Setting, UnequalError
from retrobench.bench.texts import VOCABULARY, lengths, passages, write_tokens
from retrobench.config import Representations
from retrobench.data import TokenisedTexts
from retrobench.model import Backbone, Encoder
from retrobench.objective import Passage
from retrobench.retrieval import Choices, PublishedEncoder, Vectors, load_published, write_vectors

__all__ = ["cases"]

LONGEST = 150
COSINE, COSINE_HALVED, NDCG = 0.9999, 0.999, 0.002
SAMPLE = 64  # passages that are compared
CUT = 0.7  # share of a passage's tokens that stand in its query
SPREAD = 0.05  # of random weights: texts are told apart by them, which BERT's own 0.02 hardly does


@dataclass(frozen=True)
class Size:
    """Layers, width and heads of the model, and how many passages a round embeds."""

    layers: int
    hidden: int
    heads: int
    passages: int

    @property
    def flops(self) -> float:
        """Of a passage of mean length, the last layer for [CLS] alone."""
        tokens = float(lengths(self.passages, LONGEST).mean())
        return (self.layers - 1) * tokens * (24 * self.hidden**2 + 4 * self.hidden * tokens)


SMOKE, SMALL, BASE = Size(5, 192, 6, 64), Size(6, 384, 12, 192), Size(12, 768, 12, 16384)


def cases(setting: Setting) -> Iterator[Case]:
    """From tokens in bf16, and from texts in the precision that was published."""
    size = SMOKE if setting.smoke else BASE if setting.cuda else SMALL
    with tempfile.TemporaryDirectory() as place:
        sides = Sides(Path(place), size, setting)
        bf16, fp32 = Floor(size.flops), Floor(size.flops, precision="fp32")
        about: dict[str, Any] = {"unit": "passages/s", "rounds": 5, "memory": False}
        yield Case(
            **about,
            name="from tokens in bf16, against its default from texts",
            ours=lambda: sides.ours(True),
            check=sides.same,
            peer=lambda: sides.theirs(False),
            peer_name="sentence-transformers, default",
            floor=bf16,
        )
        yield Case(
            **about,
            name="from tokens in bf16, against its bf16 from texts",
            ours=lambda: sides.ours(True),
            check=sides.ranks_the_same,
            peer=lambda: sides.theirs(True),
            peer_name="sentence-transformers, bf16",
            floor=bf16,
        )
        yield Case(
            **{**about, "rounds": 3, "warmups": 0},  # both have been at work
            name="both from texts in fp32",
            ours=sides.published,
            check=sides.same_published,
            peer=lambda: sides.theirs(False),
            peer_name="sentence-transformers, default",
            floor=fp32,
        )


class Sides:
    """The same model and passages on either side."""

    def __init__(self, place: Path, size: Size, setting: Setting) -> None:
        self.place, self.device, self.rounds = place, setting.device, 0
        made = passages(lengths(size.passages, LONGEST))
        self.texts = [text_of(passage) for passage in made]
        _write_tokens(place / "tokens", made)
        _write_tokens(place / "some", made[:SAMPLE])
        self.model = Encoder(Backbone(_bert(size)), "cls", Representations())
        self.model.save(_folder(place / "model"), tokenizer(), LONGEST)

    @cached_property
    def peer(self) -> Any:
        """The folder as sentence-transformers loads it."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.place / "model"), device=self.device)

    @cached_property
    def loaded(self) -> PublishedEncoder:
        """The folder as `evaluate` loads it."""
        return load_published(str(self.place / "model"), Choices())

    def ours(self, halved: bool) -> float:
        """A round of the stage."""
        self._stage(halved, self.place / "tokens")
        return float(len(self.texts))

    def _stage(self, halved: bool, tokens: Path) -> Path:
        source, folder = TokenisedTexts.open(tokens), self._next()
        write_vectors(folder, self.model, VOCABULARY, source, "passage", LONGEST, halved, {}, "encode")
        return folder

    def _next(self) -> Path:
        self.rounds += 1
        return _folder(self.place / str(self.rounds))

    def theirs(self, halved: bool) -> float:
        """A round of the peer."""
        self._peer(self.texts, halved)
        return float(len(self.texts))

    def _peer(self, texts: list[str], halved: bool) -> np.ndarray:
        with torch.autocast(self.device, torch.bfloat16, enabled=halved):
            return np.asarray(self.peer.encode(texts, show_progress_bar=False), np.float32)

    def published(self) -> float:
        """A round of what `evaluate` does."""
        pairs = [(str(row), text) for row, text in enumerate(self.texts)]
        self.loaded.write(self._next(), pairs, len(pairs), "passage", lambda n: None)
        return float(len(pairs))

    def same(self) -> str:
        """In fp32 the same vectors, in bf16 nearly; the next case has the same ranking."""
        theirs, told = self._peer(self.texts[:SAMPLE], False), []
        for precision, least in (("fp32", COSINE), ("bf16", COSINE_HALVED)):
            ours = _vectors(self._stage(precision == "bf16", self.place / "some"))
            told.append(_alike(ours, theirs, precision, least))
        return ", ".join(told)

    def same_published(self) -> str:
        """The same vectors, of unit length where similarity is by cosine."""
        some = self.texts[:SAMPLE]
        return _alike(self.loaded.embed(some, "passage"), self._peer(some, False), "fp32", COSINE)

    def ranks_the_same(self) -> str:
        """nDCG@10 of shortened passages as queries: ours in bf16 against the peer in fp32."""
        some = self.texts[: 4 * SAMPLE]
        queries = [" ".join(text.split()[: max(2, int(CUT * len(text.split())))]) for text in some]
        tokens = self.place / "queries"
        if not tokens.exists():
            _write_tokens(tokens, [passage_of(text) for text in queries])
        ours = (_vectors(self._stage(True, folder))[: len(some)] for folder in (tokens, self.place / "tokens"))
        theirs = (self._peer(texts, False) for texts in (queries, some))
        first, second = ndcg(*ours), ndcg(*theirs)
        if not abs(first - second) <= NDCG:
            raise UnequalError(f"nDCG@10 is {first:.4f} in bf16 and {second:.4f} in fp32. Nothing was timed.")
        return f"nDCG@10 {first:.4f} in bf16, {second:.4f} in fp32"


def ndcg(queries: np.ndarray, documents: np.ndarray) -> float:
    """nDCG@10 by cosine, where query i asks for document i alone."""
    unit = [F.normalize(torch.from_numpy(part)) for part in (queries, documents)]
    scores = unit[0] @ unit[1].T
    ranks = (scores > scores.diagonal()[:, None]).sum(1)
    return float(torch.where(ranks < 10, 1 / torch.log2(ranks + 2.0), 0.0).mean())


def _alike(ours: np.ndarray, theirs: np.ndarray, precision: str, least: float) -> str:
    cosines: Tensor = torch.cosine_similarity(torch.from_numpy(ours).double(), torch.from_numpy(theirs).double())
    found = float(cosines.min())
    if math.isnan(found) or found < least:
        raise UnequalError(
            f"vectors in {precision}: the least cosine is {found:.6f}, of at least {least}. Nothing was timed."
        )
    return f"cosine >= {found:.7f} in {precision}"


def _vectors(folder: Path) -> np.ndarray:
    found = Vectors.open(folder)
    return found.dense(0, len(found))


def _bert(size: Size) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    shape: dict[str, Any] = {"hidden_size": size.hidden, "num_hidden_layers": size.layers}
    shape |= {"num_attention_heads": size.heads, "intermediate_size": 4 * size.hidden}
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=VOCABULARY.size, initializer_range=SPREAD, **shape))


def tokenizer() -> Any:
    """One word for each id, so that a text says exactly which tokens it has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    names = {"[PAD]": VOCABULARY.pad, "[UNK]": 100, "[CLS]": VOCABULARY.cls, "[SEP]": VOCABULARY.sep}
    names |= {"[MASK]": VOCABULARY.mask}
    words = {f"w{number}": number for number in range(VOCABULARY.size) if number not in names.values()}
    made = Tokenizer(models.WordLevel({**names, **words}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = BertProcessing(("[SEP]", VOCABULARY.sep), ("[CLS]", VOCABULARY.cls))
    special = {f"{name[1:-1].lower()}_token": name for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)  # type: ignore[no-untyped-call]


def text_of(passage: Passage) -> str:
    """The words of a passage without a title."""
    return " ".join(f"w{number}" for number in passage.text)


def passage_of(text: str) -> Passage:
    """The passage of some words."""
    none = np.zeros(0, np.uint16), np.zeros(0, np.bool_)
    ids = np.asarray([int(word[1:]) for word in text.split()], np.uint16)
    return Passage(*none, ids, np.ones(len(ids), np.bool_))


def _folder(place: Path) -> Path:
    place.mkdir()
    return place


def _write_tokens(folder: Path, made: list[Passage]) -> None:
    write_tokens(folder, np.concatenate([of.text for of in made]), np.asarray([len(of.text) for of in made]))
