"""Makes what `data/embedded` ships, and the text its base model was trained on, from the public sources.

    python -m retrobench.runs.make squad SOURCE           a BEIR-layout SQuAD -> squad/
    python -m retrobench.runs.make tokenizer TEXT_FOLDER  books, wiki and squad/ -> tokenizer/
    python -m retrobench.runs.make text TEXT_FOLDER OUT   books and wiki as passages -> OUT/
    python -m retrobench.runs.make base OUT               squad/ and OUT, by track `base` -> base/

Every command gives the same bytes for the same input, so that what is shipped can be traced to its source.
"""

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

HERE = shipped_folder("squad").parent
SPLITS = ("train", "fit", "val", "test")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY_SIZE = 8192
MAX_LENGTH = 512
# A letter seen less often than this (of 44 million) is [UNK]: its embedding could not be learnt from so few.
LETTER_SIGHTINGS = 20
PASSAGE_WORDS = 115
# A stop, then space, then what may begin a sentence; a title or an initial before the stop does not end one.
STOP = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[\u2014]*[A-Z0-9])|\n")
NO_STOP = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Messrs|Mme|Mlle|Prof|Rev|Gen|Capt|Col|Lieut|No|vol|p|[A-Z])\.$")
CLAUSE = re.compile(r"[;:,\u2014]\s+")

app = typer.Typer(add_completion=False, help="Makes what `data/embedded` ships, from public sources.")
Source = Annotated[Path, typer.Argument(exists=True, file_okay=False)]


def records(file: Path) -> Iterator[dict[str, str]]:
    """The objects of a JSON Lines file, compressed or not."""
    content = file.read_bytes()
    lines = (lzma.decompress(content) if file.suffix == ".xz" else content).splitlines()
    return map(json.loads, lines)


def jsonl(rows: Iterable[dict[str, str]]) -> bytes:
    """JSON Lines in UTF-8, letters unescaped: smaller, and readable."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_xz(file: Path, content: bytes) -> None:
    """Compress as hard as xz can: written once, read by everyone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


@app.command()
def squad(source: Source) -> None:
    """Compress a BEIR-layout SQuAD, keeping ids, titles, texts and judgements and dropping the metadata."""
    corpus = ({key: row[key] for key in ("_id", "title", "text")} for row in records(source / "corpus.jsonl"))
    queries = ({key: row[key] for key in ("_id", "text")} for row in records(source / "queries.jsonl"))
    write_xz(HERE / "squad/corpus.jsonl.xz", jsonl(corpus))
    write_xz(HERE / "squad/queries.jsonl.xz", jsonl(queries))
    for split in SPLITS:
        write_xz(HERE / f"squad/qrels/{split}.tsv.xz", (source / f"qrels/{split}.tsv").read_bytes())


def empty_tokenizer() -> "Tokenizer":
    """BERT's lower-casing and word splitting, without a vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def alphabet(texts: Iterable[str]) -> list[str]:
    """The letters worth a piece, in code point order."""
    normalizer = empty_tokenizer().normalizer
    sightings = Counter(letter for text in texts for letter in normalizer.normalize_str(text))
    return sorted(x for x, n in sightings.items() if n >= LETTER_SIGHTINGS and not x.isspace())


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Piece to id: special ones, letters at the start of a word, letters inside one, then what was merged."""
    from tokenizers import trainers

    letters = alphabet(texts)
    # The library numbers the inner letters in the order of a hash map, differently on each run, and settles
    # equal counts by number. Given beforehand as if they were special, they have fixed numbers.
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
    """The files from which transformers makes a fast BERT tokenizer; `pieces` maps piece to id."""
    from tokenizers import AddedToken, models, processors

    pieces = dict(sorted(pieces.items(), key=lambda item: item[1]))
    tokenizer = empty_tokenizer()
    tokenizer.model = models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", pieces["[SEP]"]), ("[CLS]", pieces["[CLS]"]))
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIALS])
    named = {f"{piece[1:-1].lower()}_token": piece for piece in SPECIALS}
    config = {
        **named,
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
    files = (text_folder / "books.jsonl", text_folder / "wiki.jsonl", HERE / "squad/corpus.jsonl.xz")
    texts = [f"{row['title']} {row['text']}" for file in files for row in records(file)]
    write_tokenizer(vocabulary(texts), HERE / "tokenizer")


def sentence_starts(text: str) -> list[int]:
    """Offsets in `text` at which a sentence or a paragraph starts, 0 first."""
    ends = (
        stop for stop in STOP.finditer(text) if not NO_STOP.search(text, max(0, stop.start() - 8), stop.start() + 1)
    )
    return [0, *(stop.end() for stop in ends)]


def units(text: str) -> Iterator[str]:
    """What a passage is made of: sentences, or clauses where a sentence alone is longer than a passage."""
    starts = sentence_starts(text)
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        sentence = text[start:end]
        cuts = [0]
        if len(sentence.split()) > PASSAGE_WORDS:
            cuts += [clause.end() for clause in CLAUSE.finditer(sentence)]
        yield from (sentence[a:b] for a, b in zip(cuts, [*cuts[1:], len(sentence)], strict=True))


def passages(text: str) -> list[str]:
    """Cut a chapter into passages of nearly equal length, about PASSAGE_WORDS words, at the ends of units.

    A unit goes to the passage in whose share of the chapter its middle falls, so no short rest is left over.
    """
    parts = [(len(unit.split()), unit) for unit in units(text)]
    total = sum(words for words, _ in parts)
    shares = max(1, round(total / PASSAGE_WORDS))
    cut: list[list[str]] = [[] for _ in range(shares)]
    before = 0
    for words, unit in parts:
        cut[int(shares * (before + words / 2) / (total + 1))].append(unit)
        before += words
    return [passage for pieces in cut if (passage := "".join(pieces).strip())]


@app.command()
def text(text_folder: Source, out: Path) -> None:
    """Write the pre-training passages as OUT/corpus.jsonl: chapters cut, Wikipedia passages as they are."""
    chapters = records(text_folder / "books.jsonl")
    cut = (
        {"_id": f"{row['_id']}/{number}", "title": row["title"], "text": passage}
        for row in chapters
        for number, passage in enumerate(passages(row["text"]))
    )
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "corpus.jsonl", [jsonl(cut), (text_folder / "wiki.jsonl").read_bytes()])


@app.command()
def base(text_passages: Source) -> None:
    """Train the base model by track `base` on SQuAD and on what `text` wrote, and put it here with its card."""
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
    made = pretrain(Work(experiment, inputs, Store(default_root())), inputs.base.model)
    assert isinstance(made, Artifact)
    folder = HERE / "base"
    folder.mkdir(exist_ok=True)
    for file in [*made.path.glob("*.json"), *made.path.glob("*.safetensors"), *made.path.glob("*.txt")]:
        if file.name != "entry.json":
            atomic_write(folder / file.name, file.read_bytes())
    atomic_write(folder / "training_log.jsonl", (made.path / "log.jsonl").read_bytes())
    facts = {"commit": provenance.commit(), "seed": 0, **made.cost, **provenance.hardware(), **provenance.libraries()}
    atomic_write(folder / "made.json", json.dumps({"pretrain": made.key, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    app()
