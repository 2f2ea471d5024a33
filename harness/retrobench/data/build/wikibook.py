"""
Wikipedia and BookCorpus in blocks of about 512 tokens: the general pre-training corpus of all three papers.

A block packs whole sentences up to 510 tokens, which leaves two for [CLS] and [SEP]. It ends with its article, or after
1,000 sentences of books (RetroMAE: examples/pretrain/preprocess.py:28-40,75-89). Titles are left out, as in RetroMAE.
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
from retrobench.data.build.writing import Site, check_counts, make, write_corpus, write_description
from retrobench.data.tokens import TextRow

__all__ = ["PUBLISHED", "Wikibook", "blocks", "sentences"]

# bowdpr's edition of Wikipedia. A script made RetroMAE's edition, 20200501.en, and `datasets` no longer runs scripts.
WIKIPEDIA = ("wikimedia/wikipedia", "b04c8d1ceb2f5cd4588862100d08de323dccfbaa", "20231101.en")
# The hub's own conversion, because a script made `bookcorpus` too.
BOOKCORPUS = ("bookcorpus/bookcorpus", "refs/convert/parquet", "plain_text/train")
PUBLISHED = {"articles": 6_407_814, "sentences of books": 74_004_228}  # as on the hub's pages

TOKENIZER = "google-bert/bert-base-uncased"
TOKENS_PER_WORD = 1.3  # used where the tokenizer cannot be downloaded

ARTICLES_AT_A_TIME = 500
SENTENCES_OF_A_BOOK = 1_000  # RetroMAE's batch of datasets.map, beyond which no block goes

TokenCounter = Callable[[Sequence[str]], list[float]]  # gives the tokens of each text


@dataclass(frozen=True)
class Wikibook:
    """
    Builds `wikibook`, documents only.

    A block is full at `tokens` tokens. A `sample` is not compared with the published counts.
    """

    tokens: int = 510
    sample: bool = False

    def __call__(self, folder: Path) -> str:
        """Build into `folder`, and return a line about the result."""
        return make(folder, self._fill)

    def _fill(self, site: Site) -> str:
        articles = self._files(site, "wikipedia", WIKIPEDIA, "articles")
        books = self._files(site, "bookcorpus", BOOKCORPUS, "sentences of books")
        counter, unit = _token_counter(site)
        block_counts = {"wiki": 0, "book": 0}

        def documents() -> Iterator[TextRow]:
            article_blocks = _article_blocks(articles, counter, self.tokens)
            book_blocks = _book_blocks(books, counter, self.tokens)
            for block_id, text in itertools.chain(article_blocks, book_blocks):
                block_counts[block_id.partition("-")[0]] += 1
                yield block_id, "", text

        total = write_corpus(site, documents())
        title = f"Wikipedia {WIKIPEDIA[2]} and BookCorpus in blocks of {self.tokens} {unit}"
        write_description(site, title, rules.Rule(), {})
        return (
            f"{total:,} blocks of {self.tokens} {unit}, {block_counts['wiki']:,} of Wikipedia, "
            f"{block_counts['book']:,} of BookCorpus."
        )

    def _files(self, site: Site, name: str, hub_location: tuple[str, str, str], unit: str) -> list[Path]:
        """Return the parquet files among the sources if they are complete, else the hub's."""
        folder = site.sources / name
        files = sources.complete_parquet(folder)
        if self.sample:
            return files or sources.download_parquet(*hub_location, folder)
        published = PUBLISHED[unit]
        if not files or _row_count(files) != published:
            files = sources.download_parquet(*hub_location, folder)
        check_counts(site, {unit: _row_count(files)}, {unit: published})
        return files


def blocks(texts: Sequence[str], counts: Sequence[float], full: float) -> Iterator[str]:
    """Join the texts in order by spaces, and yield a block when it has `full` tokens. The last block may have fewer."""
    block: list[str] = []
    tokens = 0.0
    for text, count in zip(texts, counts, strict=True):
        if tokens >= full:
            yield " ".join(block)
            block = []
            tokens = 0.0
        block.append(text)
        tokens += count
    if tokens:
        yield " ".join(block)


# Both recipes split sentences by NLTK's Punkt, whose model is a download. The split matters only at the ends of blocks,
# once in 510 tokens, so rules without a model suffice. A sentence ends at . ! or ? before a capital, a digit or a
# quotation mark, but not after a usual abbreviation or an initial. It also ends at a line end, as headings do.
_END = re.compile(r"""([.!?]+["'\u201d\u2019)\]]*)\s+(?=["'\u201c\u2018(\[]*[A-Z0-9])|\s*\n\s*""")
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Rev|Hon|Gen|Col|Lt|Sgt|Capt|Sr|Jr|St|Mt|vs|etc|cf|ca|al|e\.g|i\.e|No|Vol|Fig|pp|ed"
    r"|Inc|Ltd|Co|Corp|U\.S|U\.K|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$"
)
LONGEST = 8  # characters of the longest abbreviation and one before it


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of an English text, without the space between them."""
    start = 0
    for match in _END.finditer(text):
        stop = match[1]
        end = match.end(1) if stop else match.start()
        last_word_start = max(start, end - LONGEST)
        if stop == "." and _ABBREVIATION.search(text[last_word_start:end]):
            continue
        if start < end:
            yield text[start:end]
        start = match.end()
    last = text[start:].strip()
    if last:
        yield last


def _article_blocks(files: list[Path], counter: TokenCounter, full: int) -> Iterator[tuple[str, str]]:
    """Yield id and text of each block of an article."""
    with bar("Wikipedia", _row_count(files), "articles") as advance:
        for articles in _batches(files, ("id", "text"), ARTICLES_AT_A_TIME):
            split_articles = [list(sentences(article["text"])) for article in articles]
            # One call for all articles, because the tokenizer works in parallel.
            all_sentences = list(itertools.chain.from_iterable(split_articles))
            counts = iter(counter(all_sentences))
            for article, texts in zip(articles, split_articles, strict=True):
                text_counts = list(itertools.islice(counts, len(texts)))
                article_blocks = blocks(texts, text_counts, full)
                for number, block in enumerate(article_blocks):
                    yield f"wiki-{article['id']}-{number}", block
            advance(len(articles))


def _book_blocks(files: list[Path], counter: TokenCounter, full: int) -> Iterator[tuple[str, str]]:
    """Yield id and text of each block of sentences from books. A row of the files is a sentence."""
    number = 0
    with bar("BookCorpus", _row_count(files), "sentences") as advance:
        for rows in _batches(files, ("text",), SENTENCES_OF_A_BOOK):
            texts = [row["text"] for row in rows]
            for block in blocks(texts, counter(texts), full):
                yield f"book-{number}", block
                number += 1
            advance(len(rows))


def _row_count(files: Iterable[Path]) -> int:
    return sum(_open_parquet(file).metadata.num_rows for file in files)


def _batches(files: Iterable[Path], columns: Sequence[str], size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of all files in order, `size` at a time. A batch may span files."""
    rows = _rows(files, columns, size)
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _rows(files: Iterable[Path], columns: Sequence[str], size: int) -> Iterator[dict[str, Any]]:
    for file in files:
        for batch in _open_parquet(file).iter_batches(batch_size=size, columns=list(columns)):
            yield from batch.to_pylist()


def _open_parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise sources.damaged(file, error) from None


def _token_counter(site: Site) -> tuple[TokenCounter, str]:
    """Return the function that counts tokens, and the name of its unit."""
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    vocabulary = site.sources / "vocab.txt"
    if vocabulary.is_file():
        return _tokenizer_counter(BertWordPieceTokenizer(str(vocabulary), lowercase=True)), "tokens"
    try:
        from huggingface_hub import hf_hub_download

        return _tokenizer_counter(Tokenizer.from_file(hf_hub_download(TOKENIZER, "tokenizer.json"))), "tokens"
    except Exception as error:
        reason = type(error).__name__
        say(f"Tokens are counted as words x {TOKENS_PER_WORD}: {TOKENIZER} could not be downloaded ({reason}).")
        return _count_words, f"tokens, counted as words x {TOKENS_PER_WORD}"


def _tokenizer_counter(tokenizer: Any) -> TokenCounter:
    def count(texts: Sequence[str]) -> list[float]:
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [float(len(encoding)) for encoding in encodings]

    tokenizer.no_truncation()
    tokenizer.no_padding()
    return count


def _count_words(texts: Sequence[str]) -> list[float]:
    return [TOKENS_PER_WORD * len(text.split()) for text in texts]
