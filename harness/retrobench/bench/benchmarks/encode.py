"""
Passages to vectors: ours beside sentence-transformers, with one [CLS]-pooled BERT of random weights.

Ours is the stage of a run, from the tokens that `tokenise` wrote to vectors on the disk, and `evaluate`, from texts.
The peer's `encode` goes from texts to memory; words are whole tokens here, so that tokenising is as cheap as can be.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, Timed, UnequalError, half_precision
from retrobench.bench.models import Scale, make_bert, make_encoder
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_lengths, draw_passages, write_untitled
from retrobench.config import Attention, ResolvedPrecision
from retrobench.data import TokenisedTexts
from retrobench.model import Backbone, autocast
from retrobench.plan import arithmetic
from retrobench.retrieval import Choices, PublishedEncoder, Vectors, load_published, write_vectors

__all__ = [
    "LONGEST",
    "Sides",
    "attention_cases",
    "cases",
    "make_tokenizer",
    "ndcg",
    "ranks",
    "require_few_slips",
    "spell",
]

LONGEST = 150
LEAST_COSINES = {"fp32": 0.9999, "bf16": 0.999, "fp16": 0.999}
# Share of queries whose relevant document may stand at another rank. Half precision swaps near ties. A swap at the top
# moves the nDCG of 256 queries by 0.0014, so a bound on nDCG would allow one swap or two.
SLIPS = 0.04
SAMPLE = 64  # passages that are compared
KERNELS: tuple[Attention, ...] = ("cudnn", "math")  # of attention, beside ours
CUT = 0.7  # share of a passage's tokens that stand in its query
SPREAD = 0.05  # of the random weights; with BERT's own 0.02 all vectors are nearly equal

# A round embeds a batch.
SMOKE = Scale(5, 192, 6, 768, 64, LONGEST, spread=SPREAD)
SMALL = Scale(6, 384, 12, 1536, 192, LONGEST, spread=SPREAD)
BASE = Scale(12, 768, 12, 3072, 16384, LONGEST, spread=SPREAD)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield encoding from tokens in half precision, and from texts in the published precision."""
    sizes = setting.choose(smoke=SMOKE, cpu=SMALL, cuda=BASE)
    half = half_precision()
    flops = _flops(sizes)
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(Path(folder), sizes, setting)
        case = Case(
            name=f"from tokens in {half}, against its default from texts",
            unit="passages/s",
            ours=sides.ours,
            check=sides.compare_vectors,
            peer=partial(sides.theirs, "fp32"),
            peer_name="sentence-transformers, default",
            floor=Floor(flops, precision=half),
            memory=False,
            rounds=5,
        )
        yield case
        yield replace(
            case,
            name=f"from tokens in {half}, against its {half} from texts",
            check=sides.compare_rankings,
            peer=partial(sides.theirs, half),
            peer_name=f"sentence-transformers, {half}",
        )
        yield replace(
            case,
            name="both from texts in fp32",
            ours=sides.published,
            check=sides.compare_published,
            floor=Floor(flops, precision="fp32"),
            rounds=3,
            warmups=0,  # both have been at work
        )
        if setting.cuda:
            yield from attention_cases(sides, case)


def attention_cases(sides: Sides, case: Case) -> Iterator[Case]:
    """Yield encoding with other kernels of attention beside ours, the memory-efficient one.

    cuDNN plans for each new shape of batch, so it is measured on new shapes first. Our side has seen them all by then.
    """
    for kernel in KERNELS:
        compared = replace(
            case,
            name=f"attention auto, against {kernel}",
            ours=partial(sides.attend, "auto"),
            check=partial(sides.compare_kernels, kernel),
            peer=partial(sides.attend, kernel),
            peer_name=f"ours, attention={kernel}",
        )
        if kernel == "cudnn":
            yield replace(
                compared,
                name=f"{compared.name} on new shapes",
                ours=cache(partial(sides.time_attention, "auto")),
                peer=cache(partial(sides.time_attention, kernel)),
                rounds=1,
                warmups=0,
            )
        yield compared


def _flops(sizes: Scale) -> float:
    """Return the FLOPs of a passage of mean length; the last layer is needed for [CLS] alone, and left out."""
    tokens = float(draw_lengths(sizes.batch, sizes.length).mean())
    shape = replace(sizes.shape, layers=sizes.layers - 1)
    return tokens * arithmetic.encoding(shape, tokens)


class Sides:
    """A model and passages for both sides; every call of ours writes into a new folder."""

    def __init__(self, folder: Path, sizes: Scale, setting: Setting) -> None:
        self.folder = folder
        self.setting = setting
        self.device = setting.device
        self.half = half_precision()
        self.calls = 0
        passages = draw_passages(draw_lengths(sizes.batch, LONGEST))
        self.ids = [passage.text for passage in passages]
        self.texts = [spell(ids) for ids in self.ids]
        _write(folder / "tokens", self.ids)
        _write(folder / "sample", self.ids[:SAMPLE])
        self.model = make_encoder(Backbone(make_bert(sizes)))
        (folder / "model").mkdir()
        self.model.save(folder / "model", make_tokenizer(), LONGEST)

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
        """Run a round of the stage, in half precision."""
        self._encode_tokens("tokens", self.half)
        return float(len(self.texts))

    def attend(self, attention: Attention) -> float:
        """Run a round of the stage, in half precision, with a kernel of attention."""
        self._encode_tokens("tokens", self.half, attention)
        return float(len(self.texts))

    def time_attention(self, attention: Attention) -> Timed:
        """Run and time a round. Its shapes are new to a kernel only once, so a case keeps the result."""
        start = self.setting.start()
        texts = self.attend(attention)
        return Timed(texts, self.setting.seconds(start))

    def published(self) -> float:
        """Run a round of `evaluate`."""
        pairs = [(str(row), text) for row, text in enumerate(self.texts)]
        folder = self._make_folder()
        self.loaded.write(folder, pairs, len(pairs), "passage", lambda n: None)
        return float(len(self.texts))

    def theirs(self, precision: ResolvedPrecision) -> float:
        """Run a round of the peer."""
        self._encode_peer(self.texts, precision)
        return float(len(self.texts))

    def compare_vectors(self) -> str:
        """Compare vectors: equal in fp32, close in half precision; the next case compares rankings."""
        theirs = self._encode_peer(self.texts[:SAMPLE], "fp32")
        ours = self._read_vectors("sample", "fp32")
        ours_halved = self._read_vectors("sample", self.half)
        equal = _require_alike(ours, theirs, "fp32")
        close = _require_alike(ours_halved, theirs, self.half)
        return f"{equal}, {close}"

    def compare_published(self) -> str:
        """Compare vectors, of unit length where similarity is by cosine."""
        texts = self.texts[:SAMPLE]
        ours = self.loaded.embed(texts, "passage")
        theirs = self._encode_peer(texts, "fp32")
        return _require_alike(ours, theirs, "fp32")

    def compare_kernels(self, attention: Attention) -> str:
        """Compare the vectors of two kernels of attention. The few texts have shapes that no round has."""
        ours = self._read_vectors("sample", self.half)
        theirs = self._read_vectors("sample", self.half, attention)
        return _require_alike(ours, theirs, self.half)

    def compare_rankings(self) -> str:
        """Compare nDCG@10 with shortened passages as queries: ours in half precision, the peer in fp32."""
        texts = self.texts[: 4 * SAMPLE]
        queries = [_shorten(ids) for ids in self.ids[: len(texts)]]
        if not (self.folder / "queries").exists():
            _write(self.folder / "queries", queries)
        our_queries = self._read_vectors("queries", self.half)
        our_documents = self._read_vectors("tokens", self.half)
        our_documents = our_documents[: len(texts)]
        query_texts = [spell(ids) for ids in queries]
        peer_queries = self._encode_peer(query_texts, "fp32")
        peer_documents = self._encode_peer(texts, "fp32")
        our_ranks = ranks(our_queries, our_documents)
        peer_ranks = ranks(peer_queries, peer_documents)
        return require_few_slips(our_ranks, peer_ranks, self.half)

    def _encode_tokens(self, name: str, precision: ResolvedPrecision, attention: Attention = "auto") -> Path:
        """Encode a folder of tokens as a run does; return the folder of its vectors."""
        texts = TokenisedTexts.open(self.folder / name)
        folder = self._make_folder()
        write_vectors(
            folder,
            self.model,
            VOCABULARY,
            texts,
            kind="passage",
            max_length=LONGEST,
            precision=precision,
            attention=attention,
        )
        return folder

    def _read_vectors(self, name: str, precision: ResolvedPrecision, attention: Attention = "auto") -> np.ndarray:
        """Encode a folder of tokens; return its vectors."""
        vectors = Vectors.open(self._encode_tokens(name, precision, attention))
        return vectors.dense(0, len(vectors))

    def _encode_peer(self, texts: list[str], precision: ResolvedPrecision) -> np.ndarray:
        with autocast(self.device, precision):
            vectors = self.peer.encode(texts, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    def _make_folder(self) -> Path:
        """Make a folder for the next call."""
        self.calls += 1
        folder = self.folder / str(self.calls)
        folder.mkdir()
        return folder


def ranks(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the rank [Q] by cosine of document i for query i, from 1."""
    unit_queries = F.normalize(torch.from_numpy(queries))
    unit_documents = F.normalize(torch.from_numpy(documents))
    scores = unit_queries @ unit_documents.T
    relevant_scores = scores.diagonal()[:, None]
    better = (scores > relevant_scores).sum(1)
    return better.numpy() + 1


def ndcg(relevant_ranks: np.ndarray) -> float:
    """Return nDCG@10, where each query has one relevant document at these ranks [Q]."""
    gains = 1 / np.log2(relevant_ranks + 1.0)
    return float(np.where(relevant_ranks <= 10, gains, 0.0).mean())


def require_few_slips(ours: np.ndarray, peer: np.ndarray, half: ResolvedPrecision) -> str:
    """Require equal ranks [Q] in half precision and in fp32, save for few queries, and return the comparison."""
    slips = np.abs(ours - peer)
    count = int((slips > 0).sum())
    scores = f"nDCG@10 {ndcg(ours):.4f} in {half}, {ndcg(peer):.4f} in fp32"
    compared = f"{scores}; {count} of {len(slips)} queries slip, by {slips.max()} ranks at most"
    if count > SLIPS * len(slips):
        raise UnequalError(f"{compared}: more than {SLIPS:.0%} of the queries. Nothing was timed.")
    return compared


def _require_alike(ours: np.ndarray, theirs: np.ndarray, precision: str) -> str:
    """Require that each pair of vectors has the least cosine of the precision; return the lowest."""
    least = LEAST_COSINES[precision]
    our_vectors = torch.from_numpy(ours).double()
    their_vectors = torch.from_numpy(theirs).double()
    cosines = torch.cosine_similarity(our_vectors, their_vectors)
    lowest = float(cosines.min())
    if math.isnan(lowest) or lowest < least:
        raise UnequalError(
            f"vectors in {precision}: the least cosine is {lowest:.6f}, of at least {least}. Nothing was timed."
        )
    return f"cosine >= {lowest:.7f} in {precision}"


def make_tokenizer() -> Any:
    """Return a tokenizer with one word for each id, so that a text spells its tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        "[PAD]": VOCABULARY.pad,
        "[UNK]": 100,
        "[CLS]": VOCABULARY.cls,
        "[SEP]": VOCABULARY.sep,
        "[MASK]": VOCABULARY.mask,
    }
    special_tokens = {}
    for token in vocabulary:
        role = token.strip("[]").lower()
        special_tokens[f"{role}_token"] = token
    special_ids = set(vocabulary.values())
    for number in range(VOCABULARY.size):
        if number not in special_ids:
            vocabulary[f"w{number}"] = number
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = BertProcessing(("[SEP]", VOCABULARY.sep), ("[CLS]", VOCABULARY.cls))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens)  # type: ignore[no-untyped-call]


def spell(ids: np.ndarray) -> str:
    """Return the words of token ids."""
    return " ".join(f"w{number}" for number in ids)


def _shorten(ids: np.ndarray) -> np.ndarray:
    """Return the first tokens of a passage, its query."""
    length = max(2, int(CUT * len(ids)))
    return ids[:length]


def _write(folder: Path, texts: Sequence[np.ndarray]) -> None:
    lengths = np.asarray([len(ids) for ids in texts])
    write_untitled(folder, np.concatenate(texts), lengths)
