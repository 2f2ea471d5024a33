"""Wikipedia and BookCorpus as a few sentences of a few words, with a vocabulary small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrobench.data.build import wikibook
from retrobench.data.datasets import Document, load
from retrobench.errors import RetrobenchError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "wikibook"


VOCABULARY = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "ant", "bee", "cat", "dog", "##s", ".")
# Tokens of its sentences: 3, 2, 4 (dog, ##s, dog and the point), 2 and 2.
ARTICLES = {"12": "Ant bee. Cat. Dogs dog. Ant.\n\nBee cat", "7": "Cat."}


def books_and_articles(folder: Path, books: list[str]) -> Path:
    """Write the sources of wikibook, two files of articles and two of books, and return their folder."""
    sources = folder.with_name(f"{folder.name}.sources")
    sources.mkdir()
    (sources / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    articles = []
    for article_id, text in ARTICLES.items():
        articles.append({"id": article_id, "url": "", "title": "Title", "text": text})
    write_halves(sources / "wikipedia/20231101.en", "train-0000{}-of-00002.parquet", articles)
    sentences = [{"text": text} for text in books]
    write_halves(sources / "bookcorpus/plain_text/train", "000{}.parquet", sentences)
    return sources


def write_halves(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True)
    middle = len(rows) // 2
    for number, half in enumerate((rows[:middle], rows[middle:])):
        table = pa.Table.from_pylist(half)
        pq.write_table(table, folder / name.format(number))


def test_wikibook_packs_whole_sentences_within_an_article(folder: Path) -> None:
    books_and_articles(folder, ["ant bee .", "cat ."])
    summary = wikibook.Wikibook(tokens=5, sample=True)(folder)
    assert summary == "5 blocks of 5 tokens, 4 of Wikipedia, 1 of BookCorpus."
    assert list(load(str(folder)).documents()) == [
        Document("wiki-12-0", "", "Ant bee. Cat."),
        Document("wiki-12-1", "", "Dogs dog. Ant."),
        Document("wiki-12-2", "", "Bee cat"),
        Document("wiki-7-0", "", "Cat."),
        Document("book-0", "", "ant bee . cat ."),
    ]
    assert load(str(folder)).title == "Wikipedia 20231101.en and BookCorpus in blocks of 5 tokens"


def test_a_block_of_books_ends_after_a_thousand_sentences_whatever_files_they_are_in(folder: Path) -> None:
    books_and_articles(folder, ["ant"] * 1999)
    wikibook.Wikibook(tokens=1200, sample=True)(folder)
    lengths = {}
    for document in load(str(folder)).documents():
        if document.id.startswith("book-"):
            lengths[document.id] = len(document.text.split())
    assert lengths == {"book-0": 1000, "book-1": 999}


def test_words_are_counted_where_there_is_no_tokenizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    sources = books_and_articles(folder, ["ant"])
    (sources / "vocab.txt").unlink()
    summary = wikibook.Wikibook(tokens=5, sample=True)(folder)
    assert summary.startswith("4 blocks of 5 tokens, counted as words x 1.3, ")
    dataset = load(str(folder))
    documents = dataset.documents()
    assert next(documents).text == "Ant bee. Cat. Dogs dog."  # 2.6, 1.3, 2.6
    assert next(documents).text == "Ant. Bee cat"  # 1.3, 2.6
    assert dataset.title.endswith("in blocks of 5 tokens, counted as words x 1.3")


def test_a_damaged_parquet_file_is_named(folder: Path) -> None:
    sources = books_and_articles(folder, ["ant"])
    (sources / "bookcorpus/plain_text/train/0000.parquet").write_text("PAR1")
    with pytest.raises(RetrobenchError, match=r"0000\.parquet is damaged"):
        wikibook.Wikibook(sample=True)(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 5 p.m. now. Is it? Yes!", ["It is 5 p.m. now.", "Is it?", "Yes!"]),
        ('"Go," he said. "Why?" He went.', ['"Go," he said.', '"Why?"', "He went."]),
        (
            "Dr. J. R. Smith, e.g. Fig. 3. Then (see No. 4.) It ended.",
            ["Dr. J. R. Smith, e.g. Fig. 3.", "Then (see No. 4.)", "It ended."],
        ),
        ("History\n\nIn 1990 it began\n", ["History", "In 1990 it began"]),
        ("Costs 3.50 dollars. 12 came... Some left", ["Costs 3.50 dollars.", "12 came...", "Some left"]),
        ("  \n", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    sentences = list(wikibook.sentences(text))
    assert sentences == expected
    joined = " ".join(sentences)
    assert joined.split() == text.split(), "no word is lost"
