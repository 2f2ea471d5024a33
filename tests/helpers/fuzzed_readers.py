"""The readers of users' files: a valid file of each, and the use of an accepted one."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from leaderboard_rows import CLAIMS, DATASET, facts, row
from mutations import change_value, damage

from retrobench.config import discover, read_entrant, read_track, resolve
from retrobench.data import LARGEST_GRADE, Collection, Corpus, fits_trec, load
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.claims import read_excerpts
from retrobench.leaderboard.comparison import Board
from retrobench.leaderboard.rows import CoverageRecord, Row, inspect, keep_per_query, load_per_query, read_coverage
from retrobench.leaderboard.rows.row import FIELDS
from retrobench.leaderboard.rows.term_coverage import Interval
from retrobench.leaderboard.tables import coverage_text, render
from retrobench.scoring.measures import parse
from retrobench.scoring.trec import read_qrels, read_run

Change = Callable[[bytes, random.Random], bytes]
INSTALLED = discover()
TRACKS = Path(__file__).parents[2] / "leaderboards"
INTERVAL = Interval(mean=0.5, low=0.4, high=0.6)
COVERAGE = (
    CoverageRecord(
        row="f00",
        entrant="mlm",
        representation="cls",
        seed=1,
        dataset=DATASET,
        corpus="f00",
        kind="passage",
        texts=1000,
        words=65.0,
        max_length=96,
        vector="cls",
        chance=0.01,
        ceilings={"coverage@16": 0.25},
        encoders={"pre-trained": "pretrain/f00"},
        measures={
            "pre-trained": {"own head": {"R-coverage": INTERVAL, "above shuffled": INTERVAL, "content": INTERVAL}}
        },
        control="f01",
        version="0",
        commit="f00",
        command="retrobench coverage",
        date="2026-01-01",
    )
    .to_json()
    .encode()
)


@dataclass(frozen=True)
class Reader:
    """A reader: its valid file, a change of that file, and the use of a file, which may raise a RetrobenchError."""

    name: str
    file: str
    valid: bytes
    use: Callable[[Path], None]
    change: Change = damage


def use_run(file: Path) -> None:
    run = read_run(file)
    ranking = run.rank()
    hits = ranking.rows[ranking.rows >= 0]
    assert all(map(fits_trec, run.queries))
    assert all(map(fits_trec, run.documents.take(hits).to_pylist()))
    assert all(map(math.isfinite, ranking.scores[ranking.rows >= 0].tolist()))


def use_qrels(file: Path) -> None:
    for query, grades in read_qrels(file).items():
        assert fits_trec(query)
        assert all(map(fits_trec, grades))
        assert all(abs(grade) <= LARGEST_GRADE for grade in grades.values())


def use_collection(file: Path) -> None:
    folder = file.parent
    if folder.name == "qrels":
        folder = folder.parent
    dataset = load(f"{folder}:test")
    documents = list(dataset.documents())
    assert len({document.id for document in documents}) == len(documents)
    Collection(dataset, Corpus(dataset)).check()
    for grades in dataset.qrels().values():
        assert all(abs(grade) <= LARGEST_GRADE for grade in grades.values())
    for document in documents:
        document.text.encode()
    assert dataset.rule.relevance_level >= 1


def use_track(file: Path) -> None:
    json.dumps(resolve(read_track(file, "mini", [])), allow_nan=False)


def use_overrides(file: Path) -> None:
    texts = file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    json.dumps(resolve(read_track(TRACKS / "mini" / "track.toml", "mini", texts)), allow_nan=False)


def use_entrant(file: Path) -> None:
    json.dumps(read_entrant(str(file), INSTALLED, []).settings, allow_nan=False, default=str)


def use_claims(file: Path) -> None:
    for excerpt in read_excerpts(file):
        assert all(cell.published is None or math.isfinite(cell.published) for s in excerpt.systems for cell in s.cells)


def use_rows(file: Path) -> None:
    for line in inspect(file):
        assert line.row is not None or line.faults
        for fault in line.faults:
            check_line(fault)
    for format in ("text", "md", "csv", "json", "latex"):
        render(Board.read(file.parent), format).encode()


def use_coverage(file: Path) -> None:
    coverage_text(read_coverage(file.parent)).encode()


def use_per_query(file: Path) -> None:
    """Keep a document under its own hash, as a forger would, and load it."""
    content = file.read_bytes()
    name = f"per_query/{hashlib.sha256(content).hexdigest()[:16]}.json.gz"
    (file.parent / name).write_bytes(gzip.compress(content, compresslevel=1))
    for measures in load_per_query(file.parent, row(per_query=name)).values():
        for by_query in measures.values():
            assert all(map(math.isfinite, by_query.values()))


def use_measures(file: Path) -> None:
    for name in file.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        measure = parse(name)
        assert measure.cutoff is None or 1 <= measure.cutoff <= 1_000_000


def change_row(content: bytes, draw: random.Random) -> bytes:
    """Change bytes of a file of rows, or a value of its last row, which gets the id of its new content."""
    if draw.random() < 0.3:
        return damage(content, draw)
    *others, last, _ = content.split(b"\n")
    document = change_value(json.loads(last), draw)
    if document.keys() >= set(FIELDS):
        later = {name: document[name] for name in document.keys() - set(FIELDS)}
        with suppress(TypeError, ValueError):  # no row has an id for it
            document["id"] = Row(**{name: document[name] for name in FIELDS}, later=later).digest()
    return b"\n".join([*others, json.dumps(document).encode(), b""])


def change_document(content: bytes, draw: random.Random) -> bytes:
    """Change bytes of a JSON document, or one of its values."""
    if draw.random() < 0.4:
        return damage(content, draw)
    return json.dumps(change_value(json.loads(content), draw)).encode()


def check_line(message: str) -> None:
    """Check that an error is one printable line, and that it holds little of the input."""
    assert message.isprintable(), ascii(message)[:300]
    assert not any(letter * 201 in message for letter in "9a[")


def readers(folder: Path) -> list[Reader]:
    """Return every reader, with valid files below a folder."""
    per_query = {DATASET: {"MRR@10": {"q1": 0.5, "q2": 0.25}}}
    kept = keep_per_query(folder / "per_query", per_query)
    kept_values = gzip.decompress((folder / "per_query" / kept).read_bytes())
    rows = []
    for name in ("bert", "bm25"):
        changes = {"stemmer": "english", "stop_words": "english", "rules": ["a rule"], "limited_by": []}
        overlap = {"documents": 1, "questions": 2, "texts": 3, "train": "d"}
        sound = row(
            name,
            facts={DATASET: facts(**changes, overlap=overlap)},
            settings={"k1": 0.9, "b": 0.4},
            checkpoint={"name": "m", "label": "m", "hash": "f00", "revision": ""},
            overrides={"pretrain.steps": 3},
        )
        rows.append(replace(sound, id=sound.digest()).to_json())
    corpus = (
        b'{"_id": "d1", "title": "one", "text": "a text"}\n{"_id": "d2", "text": "another"}\n{"_id": "3", "text": ""}\n'
    )
    queries = b'{"_id": "q1", "text": "a question"}\n{"_id": "q2", "text": "more"}\n'
    judgements = b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n"
    description = b'title = "a title"\nlanguage = "en"\ndrop_self = true\nrelevance_level = 1\nmeasures = ["MRR@10"]\n'
    for place in ("corpus", "tsv", "queries", "judgements", "description"):
        (folder / place / "qrels").mkdir(parents=True)
        (folder / place / "queries.jsonl").write_bytes(queries)
        (folder / place / "qrels" / "test.tsv").write_bytes(judgements)
        if place != "tsv":
            (folder / place / "corpus.jsonl").write_bytes(corpus)
    overrides = b"pretrain.steps=20\nmine.depth=50\nevaluate.datasets=['d']\npretrain.learning_rate=1e-3\ndata.limit=5"
    entrant = (
        b'objective = "retromae"\nname = "mine"\n[settings]\ndecoder_mask_ratio = 0.5\n[adapt]\nobjective = "mlm"\n'
    )
    return [
        Reader("run", "run.trec", b"q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1e-1 tag\nq2\tQ0\td1\t1\t3\ttag\n", use_run),
        Reader("qrels", "qrels.txt", b"q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 -2\n", use_qrels),
        Reader("BEIR qrels", "qrels.tsv", judgements, use_qrels),
        Reader("corpus", "corpus/corpus.jsonl", corpus, use_collection),
        Reader("TSV", "tsv/corpus.tsv", b"d1\ta title\ta text\nd2\t\tanother text\n", use_collection),
        Reader("queries", "queries/queries.jsonl", queries, use_collection),
        Reader("judgements", "judgements/qrels/test.tsv", judgements, use_collection),
        Reader(
            "dataset.toml", "description/dataset.toml", description + b"[splits.test]\ndangling = 1\n", use_collection
        ),
        Reader("track", "track.toml", (TRACKS / "mini" / "track.toml").read_bytes(), use_track),
        Reader("entrant", "entrant.toml", entrant, use_entrant),
        Reader("--set", "overrides.txt", overrides, use_overrides),
        Reader("--measure", "measures.txt", b"nDCG@10\nRR(rel=2)@10\nMAP\nJudged@10", use_measures),
        Reader("claims", "claims/claims.toml", CLAIMS.encode(), use_claims),
        Reader("rows", "rows/rows.jsonl", "\n".join([*rows, ""]).encode(), use_rows, change_row),
        Reader("coverage", "coverage/coverage.jsonl", COVERAGE, use_coverage, change_document),
        Reader("per_query", "per_query/values.json", kept_values, use_per_query, change_document),
    ]


def read(reader: Reader, file: Path) -> str:
    """Use a file. Return the error, empty where it was accepted. Every exception but a user's error passes through."""
    try:
        reader.use(file)
    except RetrobenchError as error:
        check_line(str(error))
        return str(error)
    return ""
