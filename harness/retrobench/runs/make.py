"""Make the embedded collection, tokenizer and base model, and the base's training text, from public sources.

    python -m retrobench.runs.make squad SOURCE           a BEIR-layout SQuAD -> squad/
    python -m retrobench.runs.make tokenizer TEXT_FOLDER  books, wiki and squad/ -> tokenizer/
    python -m retrobench.runs.make text TEXT_FOLDER OUT   books and wiki as passages -> OUT/
    python -m retrobench.runs.make base OUT               squad/ and OUT, by track `base` -> base/

Every command gives equal bytes for equal input, so that the shipped files can be traced to their sources.
"""

import itertools
import json
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrobench.core import atomic_write
from retrobench.data import shipped_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EMBEDDED = shipped_folder("squad").parent
SPLITS = ("train", "fit", "val", "test")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY_SIZE = 8192
MAX_LENGTH = 512
# A letter with fewer occurrences (of 44 million letters) is [UNK], because its embedding could not be learnt.
LETTER_OCCURRENCES = 20
PASSAGE_WORDS = 115
# A sentence ends at a stop, a space and a possible beginning of a sentence, but not behind a title or an initial.
STOP = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[\u2014]*[A-Z0-9])|\n")
NO_STOP = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Messrs|Mme|Mlle|Prof|Rev|Gen|Capt|Col|Lieut|No|vol|p|[A-Z])\.$")
CLAUSE = re.compile(r"[;:,\u2014]\s+")

app = typer.Typer(add_completion=False, help="Make the embedded data from public sources.")
Source = Annotated[Path, typer.Argument(exists=True, file_okay=False)]


def records(file: Path) -> Iterator[dict[str, str]]:
    """Return the objects of a JSON Lines file, compressed or not."""
    content = file.read_bytes()
    if file.suffix == ".xz":
        content = lzma.decompress(content)
    return map(json.loads, content.splitlines())


def jsonl(rows: Iterable[dict[str, str]]) -> bytes:
    """Return JSON Lines in UTF-8, without escapes for letters."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_xz(file: Path, content: bytes) -> None:
    """Write the content with the strongest compression of xz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


@app.command()
def squad(source: Source) -> None:
    """Compress a BEIR-layout SQuAD, keeping ids, titles, texts and judgements and dropping the metadata."""
    corpus = select_keys(source / "corpus.jsonl", ("_id", "title", "text"))
    queries = select_keys(source / "queries.jsonl", ("_id", "text"))
    write_xz(EMBEDDED / "squad/corpus.jsonl.xz", jsonl(corpus))
    write_xz(EMBEDDED / "squad/queries.jsonl.xz", jsonl(queries))
    for split in SPLITS:
        write_xz(EMBEDDED / f"squad/qrels/{split}.tsv.xz", (source / f"qrels/{split}.tsv").read_bytes())


def select_keys(file: Path, keys: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yield the records of a file with these keys only."""
    for row in records(file):
        yield {key: row[key] for key in keys}


def empty_tokenizer() -> "Tokenizer":
    """Return a tokenizer with BERT's lower-casing and word splitting, without a vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def alphabet(texts: Iterable[str]) -> list[str]:
    """Return the frequent letters in code point order."""
    normalizer = empty_tokenizer().normalizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    return sorted(letter for letter, n in counts.items() if n >= LETTER_OCCURRENCES and not letter.isspace())


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Return ids by piece: special pieces, letters at the start of a word, letters inside words, merged pieces."""
    from tokenizers import trainers

    letters = alphabet(texts)
    # The library numbers the inner letters in the order of a hash map, which differs between runs, and breaks ties by
    # number. As special tokens the letters have fixed numbers.
    fixed = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=fixed,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    trained = empty_tokenizer()
    trained.train_from_iterator(texts, trainer)
    return trained.get_vocab()


def write_tokenizer(pieces: dict[str, int], folder: Path) -> None:
    """Write the files of a fast BERT tokenizer of transformers. `pieces` maps piece to id."""
    from tokenizers import AddedToken, models, processors

    pieces = dict(sorted(pieces.items(), key=lambda item: item[1]))
    tokenizer = empty_tokenizer()
    tokenizer.model = models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", pieces["[SEP]"]), ("[CLS]", pieces["[CLS]"]))
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIALS])
    special_tokens = {f"{piece[1:-1].lower()}_token": piece for piece in SPECIALS}
    config = {
        **special_tokens,
        "do_lower_case": True,
        "model_max_length": MAX_LENGTH,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    atomic_write(folder / "vocab.txt", [f"{piece}\n" for piece in pieces])
    atomic_write(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


@app.command()
def tokenizer(text_folder: Source) -> None:
    """Train the WordPiece tokenizer on the pre-training text and the titles and texts of squad/."""
    texts = []
    for file in (text_folder / "books.jsonl", text_folder / "wiki.jsonl", EMBEDDED / "squad/corpus.jsonl.xz"):
        for row in records(file):
            texts.append(f"{row['title']} {row['text']}")
    write_tokenizer(vocabulary(texts), EMBEDDED / "tokenizer")


def sentence_starts(text: str) -> list[int]:
    """Return the offsets of sentences and paragraphs in `text`, 0 first."""
    offsets = [0]
    for stop in STOP.finditer(text):
        is_abbreviation = NO_STOP.search(text, max(0, stop.start() - 8), stop.start() + 1)
        if not is_abbreviation:
            offsets.append(stop.end())
    return offsets


def units(text: str) -> Iterator[str]:
    """Yield the sentences of a text, and the clauses of a sentence that is longer than a passage."""
    for sentence in cut_at(text, sentence_starts(text)):
        clause_starts = [0]
        if len(sentence.split()) > PASSAGE_WORDS:
            clause_starts += [clause.end() for clause in CLAUSE.finditer(sentence)]
        yield from cut_at(sentence, clause_starts)


def cut_at(text: str, starts: list[int]) -> Iterator[str]:
    """Yield the pieces of a text that begin at `starts`."""
    for start, end in itertools.pairwise([*starts, len(text)]):
        yield text[start:end]


def passages(text: str) -> list[str]:
    """Cut a chapter into passages of nearly equal length, about PASSAGE_WORDS words, at the ends of units.

    The passages divide the chapter evenly, and a unit belongs to the passage of its middle. So no passage is short.
    """
    chapter = list(units(text))
    lengths = [len(unit.split()) for unit in chapter]
    total = sum(lengths)
    count = max(1, round(total / PASSAGE_WORDS))
    cut = [""] * count
    offset = 0
    for unit, length in zip(chapter, lengths, strict=True):
        middle = offset + length / 2
        cut[int(count * middle / (total + 1))] += unit
        offset += length
    stripped = [passage.strip() for passage in cut]
    return [passage for passage in stripped if passage]


@app.command()
def text(text_folder: Source, out: Path) -> None:
    """Write the pre-training passages as OUT/corpus.jsonl: chapters cut, Wikipedia passages as they are."""
    out.mkdir(parents=True, exist_ok=True)
    books = jsonl(cut_chapters(text_folder / "books.jsonl"))
    wikipedia = (text_folder / "wiki.jsonl").read_bytes()
    atomic_write(out / "corpus.jsonl", [books, wikipedia])


def cut_chapters(file: Path) -> Iterator[dict[str, str]]:
    """Yield the passages of all chapters, numbered within their chapter."""
    for row in records(file):
        for number, passage in enumerate(passages(row["text"])):
            yield {"_id": f"{row['_id']}/{number}", "title": row["title"], "text": passage}


@app.command()
def base(text_passages: Source) -> None:
    """Train the base model by track `base` on SQuAD and on the output of `text`, and embed it with its card."""
    from dataclasses import replace

    from retrobench.config import Experiment, discover, read_entrant, read_track
    from retrobench.core import keep_freed_memory, provenance, quiet_transformers
    from retrobench.data import quiet_ir_datasets, register
    from retrobench.leaderboard import locate
    from retrobench.pipeline import pretrain
    from retrobench.stages import Work, open_inputs
    from retrobench.store import Artifact, Store, default_root

    register()
    quiet_ir_datasets()
    quiet_transformers()
    keep_freed_memory()
    track = read_track(locate("base"), "base", [])
    corpus = (*track.pretrain.corpus, str(text_passages))
    track = replace(track, pretrain=replace(track.pretrain, corpus=corpus))
    experiment = Experiment(track, read_entrant("mlm", discover(), []), 0)
    inputs = open_inputs([experiment])[0]
    assert inputs.base is not None
    encoder = pretrain(Work(experiment, inputs, Store(default_root())), inputs.base.model)
    assert isinstance(encoder, Artifact)
    folder = EMBEDDED / "base"
    folder.mkdir(exist_ok=True)
    for pattern in ("*.json", "*.safetensors", "*.txt"):
        for file in encoder.path.glob(pattern):
            if file.name != "entry.json":
                atomic_write(folder / file.name, file.read_bytes())
    atomic_write(folder / "training_log.jsonl", (encoder.path / "log.jsonl").read_bytes())
    card = {
        "pretrain": encoder.key,
        "commit": provenance.commit(),
        "seed": 0,
        **encoder.cost,
        **provenance.hardware(),
        **provenance.libraries(),
    }
    atomic_write(folder / "made.json", json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    app()
