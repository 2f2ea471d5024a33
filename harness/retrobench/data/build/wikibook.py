"""
Wikipedia and BookCorpus in blocks of about 512 tokens: the general pre-training corpus of all three papers.

Whole sentences are packed until a block holds 510 tokens, which leaves two for [CLS] and [SEP], within one article or
within 1,000 sentences of books (RetroMAE: examples/pretrain/preprocess.py:28-40,75-89). Titles are left out, as there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import bar, say
from retrobench.data import rules
from retrobench.data.build import sources
from retrobench.data.build.writing import Site, expect, make, write_corpus, write_description

__all__ = ["PUBLISHED", "Wikibook", "blocks", "sentences"]

# bowdpr's edition of Wikipedia. RetroMAE's, 20200501.en, was made by a script, which no version of `datasets` runs now.
WIKIPEDIA = ("wikimedia/wikipedia", "b04c8d1ceb2f5cd4588862100d08de323dccfbaa", "20231101.en")
# The hub's own conversion, for `bookcorpus` too was made by a script.
BOOKCORPUS = ("bookcorpus/bookcorpus", "refs/convert/parquet", "plain_text/train")
PUBLISHED = {"articles": 6_407_814, "sentences of books": 74_004_228}  # as on their pages on the hub

TOKENIZER = "google-bert/bert-base-uncased"
TOKENS_PER_WORD = 1.3  # where the tokenizer cannot be had

ARTICLES_AT_A_TIME = 500
SENTENCES_OF_A_BOOK = 1_000  # the batch of datasets.map, which a block never leaves there

Count = Callable[[Sequence[str]], list[float]]  # tokens of each text


@dataclass(frozen=True)
class Wikibook:
    """
    Builds `wikibook`, documents only.

    `tokens` is when a block is full. A `sample` is not held to the published counts.
    """

    tokens: int = 510
    sample: bool = False

    def __call__(self, folder: Path) -> str:
        """Build into `folder` and say what was made."""
        return make(folder, self._fill)

    def _fill(self, site: Site) -> str:
        wiki = self._files(site, "wikipedia", WIKIPEDIA, "articles")
        books = self._files(site, "bookcorpus", BOOKCORPUS, "sentences of books")
        count, unit = _counter(site)
        made = {"wiki": 0, "book": 0}

        def documents() -> Iterator[tuple[str, str, str]]:
            for key, text in itertools.chain(_wiki(wiki, count, self.tokens), _book(books, count, self.tokens)):
                made[key.partition("-")[0]] += 1
                yield key, "", text

        total = write_corpus(site, documents())
        title = f"Wikipedia {WIKIPEDIA[2]} and BookCorpus in blocks of {self.tokens} {unit}"
        write_description(site, title, rules.Rule(), {})
        return (
            f"{total:,} blocks of {self.tokens} {unit}, {made['wiki']:,} of Wikipedia, {made['book']:,} of BookCorpus."
        )

    def _files(self, site: Site, name: str, where: tuple[str, str, str], unit: str) -> list[Path]:
        """The parquet files of a part: those among the sources if they are all, else the hub's."""
        place = site.sources / name
        files = sources.at_hand(place)
        if not files or (not self.sample and _rows(files) != PUBLISHED[unit]):
            files = sources.fetch_parquet(*where, place)
        if not self.sample:
            expect(site, {unit: _rows(files)}, {unit: PUBLISHED[unit]})
        return files


def blocks(texts: Sequence[str], counts: Sequence[float], full: float) -> Iterator[str]:
    """The texts in order, joined by spaces into blocks, each ended once it holds `full` tokens; the last may not."""
    block: list[str] = []
    held = 0.0
    for text, count in zip(texts, counts, strict=True):
        if held >= full:
            yield " ".join(block)
            block, held = [], 0.0
        block.append(text)
        held += count
    if held:
        yield " ".join(block)


# Both recipes cut with NLTK's Punkt, whose model is a download. Only where a block ends depends on the cut, once in 510
# tokens, so rules without a model will do: a sentence ends at . ! or ? before a capital, a digit or a quotation mark,
# not after a usual abbreviation or an initial, and at the end of a line, which headings are on.
_END = re.compile(r"""([.!?]+["'\u201d\u2019)\]]*)\s+(?=["'\u201c\u2018(\[]*[A-Z0-9])|\s*\n\s*""")
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Rev|Hon|Gen|Col|Lt|Sgt|Capt|Sr|Jr|St|Mt|vs|etc|cf|ca|al|e\.g|i\.e|No|Vol|Fig|pp|ed"
    r"|Inc|Ltd|Co|Corp|U\.S|U\.K|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$"
)
LONGEST = 8  # characters of an abbreviation and one before it


def sentences(text: str) -> Iterator[str]:
    """The sentences of an English text, without the space between them."""
    start = 0
    for found in _END.finditer(text):
        end = found.end(1) if found[1] else found.start()
        if found[1] == "." and _ABBREVIATION.search(text[max(start, end - LONGEST) : end]):
            continue
        if start < end:
            yield text[start:end]
        start = found.end()
    if rest := text[start:].strip():
        yield rest


def _wiki(files: list[Path], count: Count, full: int) -> Iterator[tuple[str, str]]:
    """Key and text of each block of an article."""
    with bar("Wikipedia", _rows(files), "articles") as advance:
        for articles in _groups(files, ("id", "text"), ARTICLES_AT_A_TIME):
            cut = [list(sentences(article["text"])) for article in articles]
            counts = iter(count([sentence for of_one in cut for sentence in of_one]))
            for article, of_one in zip(articles, cut, strict=True):
                own = list(itertools.islice(counts, len(of_one)))
                for number, block in enumerate(blocks(of_one, own, full)):
                    yield f"wiki-{article['id']}-{number}", block
            advance(len(articles))


def _book(files: list[Path], count: Count, full: int) -> Iterator[tuple[str, str]]:
    """Key and text of each block of sentences from books, which are one sentence to a row."""
    number = 0
    with bar("BookCorpus", _rows(files), "sentences") as advance:
        for rows in _groups(files, ("text",), SENTENCES_OF_A_BOOK):
            texts = [row["text"] for row in rows]
            for block in blocks(texts, count(texts), full):
                yield f"book-{number}", block
                number += 1
            advance(len(rows))


def _rows(files: Iterable[Path]) -> int:
    return sum(_open(file).metadata.num_rows for file in files)


def _groups(files: Iterable[Path], columns: Sequence[str], size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows in order, `size` at a time whatever files they are in."""
    batches = (batch for file in files for batch in _open(file).iter_batches(batch_size=size, columns=list(columns)))
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    while group := list(itertools.islice(rows, size)):
        yield group


def _open(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise sources.damaged(file, error) from None


def _counter(site: Site) -> tuple[Count, str]:
    """How tokens are counted, and what the unit is called."""
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    if (site.sources / "vocab.txt").is_file():
        return _tokens_of(BertWordPieceTokenizer(str(site.sources / "vocab.txt"), lowercase=True)), "tokens"
    try:
        from huggingface_hub import hf_hub_download

        return _tokens_of(Tokenizer.from_file(hf_hub_download(TOKENIZER, "tokenizer.json"))), "tokens"
    except Exception as error:
        say(f"Tokens are counted as words x {TOKENS_PER_WORD}: {TOKENIZER} cannot be had ({type(error).__name__}).")
        return _words, f"tokens, counted as words x {TOKENS_PER_WORD}"


def _tokens_of(tokenizer: Any) -> Count:
    def count(texts: Sequence[str]) -> list[float]:
        return [float(len(found)) for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    tokenizer.no_truncation()
    tokenizer.no_padding()
    return count


def _words(texts: Sequence[str]) -> list[float]:
    return [TOKENS_PER_WORD * len(text.split()) for text in texts]
