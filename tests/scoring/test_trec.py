"""TREC's files with any blanks, any order, heads and gzip; and each fault by file and line."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from retrobench.errors import RetrobenchError
from retrobench.scoring import trec
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.trec import Run, read_qrels, read_run

RUN = """\
q2 Q0 d9 1 3.5 my-run
q2 Q0 d1 2 7 my-run
q1 Q0 d1 1 -1e2 my-run
q2 Q0 d10 3 3.5 my-run
"""


def write(folder: Path, text: str | bytes, name: str = "run.trec") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def ranked_ids(run: Run, ranked: Ranking) -> dict[str, list[str]]:
    """Return query -> document ids in order."""
    names = run.documents.to_pylist()
    lists = {}
    for query, rows in zip(run.queries, ranked.rows.tolist(), strict=True):
        lists[query] = [names[row] for row in rows if row >= 0]
    return lists


# Runs


def test_a_run_as_arrays(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, RUN))
    assert (run.tag, run.queries) == ("my-run", ["q2", "q1"])
    assert run.documents.to_pylist() == ["d9", "d1", "d10", "d1"]
    assert run.rows.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert run.rows.dtype == np.int32
    assert run.scores.tolist() == [[3.5, 7, 3.5], [-100, -np.inf, -np.inf]]
    assert run.scores.dtype == np.float32


def test_scores_rank_and_ids_break_ties(tmp_path: Path) -> None:
    """The column rank and the order of the lines say nothing."""
    run = read_run(write(tmp_path, RUN))
    ranked = run.rank()
    assert ranked_ids(run, ranked) == {"q2": ["d1", "d9", "d10"], "q1": ["d1"]}
    assert ranked.ties == 1
    assert ranked.self_hits == 0


OWN_HITS = """\
d1 Q0 d1 1 9 x
d1 Q0 d2 2 8 x
d2 Q0 d1 1 9 x
d2 Q0 d3 2 8 x
d2 Q0 d2 3 8 x
d4 Q0 d1 1 1 x
"""


def test_own_documents_stay_by_default(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, OWN_HITS))
    ranked = run.rank()
    assert ranked_ids(run, ranked) == {"d1": ["d1", "d2"], "d2": ["d1", "d3", "d2"], "d4": ["d1"]}
    assert ranked.self_hits == 0
    assert ranked.ties == 1


def test_own_documents_are_dropped_on_request(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, OWN_HITS))
    ranked = run.rank(drop_self=True)
    assert ranked_ids(run, ranked) == {"d1": ["d2"], "d2": ["d1", "d3"], "d4": ["d1"]}
    assert ranked.self_hits == 2
    assert ranked.ties == 0


def test_rows_among_another_list_of_documents(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, RUN))
    assert run.rows_among(["gone", "d10", "d1"], run.rows).tolist() == [[-2, 2, 1], [2, -1, -1]]
    assert run.rows_among([], run.rows).tolist() == [[-2, -2, -2], [-2, -1, -1]]


@pytest.mark.parametrize(
    "text",
    [
        RUN.replace(" ", "\t"),
        RUN.replace(" ", "   "),
        RUN.replace(" ", " \t "),
        RUN.replace("\n", "\r\n"),
        RUN.replace("\n", " \n"),
        "  " + RUN.replace("\n", "\n  "),
        RUN.replace("\n", "\n\n"),
        RUN.removesuffix("\n"),
        RUN.removesuffix("\n") + " ",
        RUN.removesuffix("\n") + "\t",
        RUN.removesuffix("\n") + " \t\r",
        RUN + "  ",
        "# ir_metadata.start\n# tag: x\n#\n\n#ir_metadata.end\n" + RUN,
    ],
    ids=[
        *("tabs", "spaces", "both", "crlf", "trailing", "leading", "empty lines", "no last newline"),
        *("last blank", "last tab", "last blanks", "blanks after all", "head"),
    ],
)
@pytest.mark.parametrize("name", ["run.trec", "run.gz"])
def test_blanks_heads_and_gzip_whatever_the_name(text: str, name: str, tmp_path: Path) -> None:
    expected = read_run(write(tmp_path, RUN, "plain"))
    for content in (text.encode(), gzip.compress(text.encode())):
        run = read_run(write(tmp_path, content, name))
        assert run.tag == expected.tag
        assert run.queries == expected.queries
        assert run.documents == expected.documents
        assert run.rows.tolist() == expected.rows.tolist()
        assert run.scores.tolist() == expected.scores.tolist()


def test_ids_keep_what_a_csv_reader_would_take_away(tmp_path: Path) -> None:
    documents = ['"d1"', "007", "1e3", "NaN", "null", "#d", "é,日", "d\\n", "'", "true"]
    queries = ['"q', "01", "nan"]
    lines = []
    for query in queries:
        lines += [f"{query} Q0 {document} 0 {1000 - number} t" for number, document in enumerate(documents)]
    run = read_run(write(tmp_path, "\n".join(lines)))
    assert ranked_ids(run, run.rank()) == dict.fromkeys(queries, documents)


@pytest.mark.parametrize("chunk", [2**24, 64])
def test_a_shuffled_file_ranks_as_trec_eval_ranks_it(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against pytrec_eval's own reader: many ties, lists of all lengths, lines of all queries mixed."""
    monkeypatch.setattr(trec, "_CHUNK", chunk)
    file = write(tmp_path, "".join(random_lines()))
    run = read_run(file)
    with file.open(encoding="utf-8") as opened:
        parsed = pytrec_eval.parse_run(opened)
    assert len(run.queries) == len(parsed) == 44
    for query, documents in ranked_ids(run, run.rank()).items():
        assert sorted(documents) == sorted(parsed[query])
        # Each document in turn is the relevant one. Its reciprocal rank tells where trec_eval puts it.
        qrels = {document: {document: 1} for document in documents}
        copies = dict.fromkeys(documents, parsed[query])
        values = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(copies)
        for rank, document in enumerate(documents, 1):
            assert values[document]["recip_rank"] == pytest.approx(1 / rank)


def random_lines() -> list[str]:
    draw = random.Random(0)
    documents = [f"d{number}" for number in range(60)] + ["é", "日", "D", "d"]
    queries = ["q1", "q2", "é", "10"] + [f"x{number}" for number in range(40)]
    lines = []
    for query in queries:
        for document in draw.sample(documents, draw.randrange(1, 40)):
            score = draw.choice((0, -0.0, 1, 2.5, -3, 1e-3))
            lines.append(f"{query} Q0 {document} {draw.randrange(9)} {score} some-tag\n")
    draw.shuffle(lines)
    return lines


def test_scores_that_32_bits_cannot_tell_apart_are_ties(tmp_path: Path) -> None:
    """The larger id is first, as in trec_eval, though its score was written smaller."""
    run = read_run(write(tmp_path, "q Q0 a 1 0.987654321 t\nq Q0 b 2 0.987654320 t\n"))
    assert ranked_ids(run, run.rank()) == {"q": ["b", "a"]}
    assert run.rank().ties == 1


def test_repetitions_are_looked_for_in_every_block_of_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trec, "_GROUP", 3)
    lines = [f"q{number % 10} Q0 d{number} 1 {number} t" for number in range(100)]
    assert len(read_run(write(tmp_path, "\n".join(lines))).documents) == 100
    for number in range(100):
        query = f"q{number % 10}"
        repeated = [*lines, f"{query} Q0 d{number} 1 0.5 t"]
        with pytest.raises(RetrobenchError, match=rf"line 101: query '{query}' has document 'd{number}'"):
            read_run(write(tmp_path, "\n".join(repeated)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "holds no hit at all; for each, a run has a line with six columns: query, Q0, document, rank, score, tag.",
        ),
        ("# nothing but a head\n\n", "holds no hit at all;"),
        (RUN + "q2 Q0 d3 4 1.5\n", "line 5: six columns: .* were expected, not 5."),
        ("# head\n\n" + RUN + "q2 Q0 d3 4 1.5 a tag\n", "line 7: six columns: .* were expected, not 7."),
        (RUN + "q2 Q0  d3 1.5 t\n" + RUN, "line 5: six columns: .* were expected, not 5."),
        (RUN + "q2 Q0 d3 4 high t\n", "line 5: a finite score was expected in column 5, not 'high'."),
        (RUN + "q2 Q0 d3 4 nan t\n", "line 5: a finite score was expected in column 5, not 'nan'."),
        (RUN + "q2 Q0 d3 4 NaN t\n", "line 5: a finite score was expected in column 5, not 'NaN'."),
        (RUN + "q2 Q0 d3 4 -inf t\n", "line 5: a finite score was expected in column 5, not '-inf'."),
        (RUN + "q2 Q0 d3 4 1e39 t\n", "line 5: a finite score was expected in column 5, not '1e39'."),
        (RUN + "q2 Q0 d1 4 1 t\n", "line 5: query 'q2' has document 'd1' on line 2 already; keep one."),
        (RUN.encode() + b"q2 Q0 \xff 4 1 t\n", "line 5: UTF-8 was expected."),
        ("q1 0 d1 1\n", "line 1: six columns: .* were expected, not 4."),
    ],
)
def test_a_faulty_run_is_named_by_file_and_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=rf"^{tmp_path}/run\.trec[, ] ?{message}"):
        read_run(write(tmp_path, text))


def test_a_fault_that_only_the_parser_sees_is_still_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trec, "_single_spaced", lambda lines: lines.replace(b" t", b""))
    with pytest.raises(RetrobenchError, match=r"run\.trec cannot be read as a run \(.*\); a line has six columns: "):
        read_run(write(tmp_path, "q Q0 d 1 1 t\n"))


@pytest.mark.parametrize("read", [read_run, read_qrels])
def test_a_file_that_cannot_be_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"absent cannot be read \(No such file or directory\)"):
        read(tmp_path / "absent")
    with pytest.raises(RetrobenchError, match=r"cannot be read \(Is a directory\)"):
        read(tmp_path)


@pytest.mark.parametrize(("read", "text"), [(read_run, RUN), (read_qrels, "q1 0 d1 1\n")])
def test_a_broken_gzip_file(read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    cut = gzip.compress(text.encode() * 50)[:-9]
    with pytest.raises(RetrobenchError, match=r"run\.trec is a broken gzip file"):
        read(write(tmp_path, cut))


# Judgements


TRUTH = {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": -2}}


@pytest.mark.parametrize(
    "text",
    [
        "q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 -2\n",
        "q1\tQ0\td1\t1\r\nq1\t0\td2\t0\r\nq2\t0\td1\t-2",
        "# a head\nq1  0 d1   1\n\nq1 0 d2 0\nq1 0 d1 1\nq2 0 d1 -2\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t-2\n",
    ],
    ids=["TREC", "tabs", "told twice alike", "BEIR"],
)
def test_judgements(text: str, tmp_path: Path) -> None:
    assert read_qrels(write(tmp_path, text)) == TRUTH
    assert read_qrels(write(tmp_path, gzip.compress(text.encode()), "qrels.txt")) == TRUTH


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no judgement; four columns are expected"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgement; four columns are expected"),
        ("q1 d1\n", r"line 1: 2 columns are no judgement; four columns are expected \(query, 0, document, grade\), or"),
        (RUN, "line 1: 6 columns are no judgement;"),
        ("q1\td1\t1\n", "line 1: three columns need a header, query-id, corpus-id, score."),
        (
            "q1 0 d1 1\nq1 0 d2 0.5\n",
            "line 2: 4 columns in UTF-8, a whole number in the last, were expected, not 'q1 0",
        ),
        (
            "q1 0 d1 1\nq1 d2 0\n",
            "line 2: 4 columns in UTF-8, a whole number in the last, were expected, not 'q1 d2 0'",
        ),
        (b"q1 0 d1 1\nq1 0 \xff 0\n", "line 2: 4 columns in UTF-8"),
        (
            "q1 0 d1 1\nq1 0 d2 1\nq1 0 d1 0\n",
            "line 3: query 'q1' and document 'd1' are judged 0 here and 1 before; remove one of the two.",
        ),
    ],
)
def test_a_faulty_judgement_is_named_by_file_and_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=rf"^{tmp_path}/run\.trec[, ] ?{message}"):
        read_qrels(write(tmp_path, text))
