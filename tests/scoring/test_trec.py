"""TREC's files with any blanks, any order, heads and gzip; and each fault by file and line."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from retrobench.data import Exclusions
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


def write(folder: Path, content: str | bytes, name: str = "run.trec") -> Path:
    file = folder / name
    if isinstance(content, str):
        content = content.encode()
    file.write_bytes(content)
    return file


def write_and_read(folder: Path, content: str | bytes, name: str = "run.trec") -> Run:
    return read_run(write(folder, content, name))


def ranked_ids(run: Run, ranked: Ranking) -> dict[str, list[str]]:
    """Return query -> document ids in order."""
    names = run.documents.to_pylist()
    lists = {}
    for query, rows in zip(run.queries, ranked.rows.tolist(), strict=True):
        lists[query] = [names[row] for row in rows if row >= 0]
    return lists


# Runs


def test_a_run_as_arrays(tmp_path: Path) -> None:
    run = write_and_read(tmp_path, RUN)
    assert run.tag == "my-run"
    assert run.queries == ["q2", "q1"]
    assert run.documents.to_pylist() == ["d9", "d1", "d10", "d1"]
    assert run.rows.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert run.rows.dtype == np.int32
    assert run.scores.tolist() == [[3.5, 7, 3.5], [-100, -np.inf, -np.inf]]
    assert run.scores.dtype == np.float32


def test_scores_rank_and_ids_break_ties(tmp_path: Path) -> None:
    """The column rank and the order of the lines say nothing."""
    run = write_and_read(tmp_path, RUN)
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
    run = write_and_read(tmp_path, OWN_HITS)
    ranked = run.rank()
    assert ranked_ids(run, ranked) == {"d1": ["d1", "d2"], "d2": ["d1", "d3", "d2"], "d4": ["d1"]}
    assert ranked.self_hits == 0
    assert ranked.ties == 1


def test_own_documents_are_dropped_on_request(tmp_path: Path) -> None:
    run = write_and_read(tmp_path, OWN_HITS)
    ranked = run.rank(Exclusions(own=True))
    assert ranked_ids(run, ranked) == {"d1": ["d2"], "d2": ["d1", "d3"], "d4": ["d1"]}
    assert ranked.self_hits == 2
    assert ranked.ties == 0


def test_excluded_documents_leave_their_query_alone(tmp_path: Path) -> None:
    run = write_and_read(tmp_path, OWN_HITS)
    ranked = run.rank(Exclusions(documents={"d2": frozenset({"d1", "d3", "absent"})}))
    assert ranked_ids(run, ranked) == {"d1": ["d1", "d2"], "d2": ["d2"], "d4": ["d1"]}
    assert (ranked.self_hits, ranked.excluded) == (0, 2)


def test_rows_among_another_list_of_documents(tmp_path: Path) -> None:
    run = write_and_read(tmp_path, RUN)
    among_others = run.rows_among(["gone", "d10", "d1"], run.rows)
    among_none = run.rows_among([], run.rows)
    assert among_others.tolist() == [[-2, 2, 1], [2, -1, -1]]
    assert among_none.tolist() == [[-2, -2, -2], [-2, -1, -1]]


WITHOUT_LAST_NEWLINE = RUN.removesuffix("\n")
SAME_RUN = {
    "tabs": RUN.replace(" ", "\t"),
    "spaces": RUN.replace(" ", "   "),
    "both": RUN.replace(" ", " \t "),
    "crlf": RUN.replace("\n", "\r\n"),
    "trailing": RUN.replace("\n", " \n"),
    "leading": "  " + RUN.replace("\n", "\n  "),
    "empty lines": RUN.replace("\n", "\n\n"),
    "no last newline": WITHOUT_LAST_NEWLINE,
    "last blank": f"{WITHOUT_LAST_NEWLINE} ",
    "last tab": f"{WITHOUT_LAST_NEWLINE}\t",
    "last blanks": f"{WITHOUT_LAST_NEWLINE} \t\r",
    "blanks after all": f"{RUN}  ",
    "head": f"# ir_metadata.start\n# tag: x\n#\n\n#ir_metadata.end\n{RUN}",
}


@pytest.mark.parametrize("text", SAME_RUN.values(), ids=SAME_RUN.keys())
@pytest.mark.parametrize("name", ["run.trec", "run.gz"])
def test_blanks_heads_and_gzip_whatever_the_name(text: str, name: str, tmp_path: Path) -> None:
    expected = write_and_read(tmp_path, RUN, "plain")
    plain = text.encode()
    for content in (plain, gzip.compress(plain)):
        run = write_and_read(tmp_path, content, name)
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
        for position, document in enumerate(documents):
            score = 1000 - position
            lines.append(f"{query} Q0 {document} 0 {score} t\n")
    run = write_and_read(tmp_path, "".join(lines))
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
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"})
        values = evaluator.evaluate(copies)
        for rank, document in enumerate(documents, 1):
            reciprocal_rank = values[document]["recip_rank"]
            assert reciprocal_rank == pytest.approx(1 / rank)


def random_lines() -> list[str]:
    draw = random.Random(0)
    documents = [f"d{number}" for number in range(60)]
    documents += ["é", "日", "D", "d"]
    queries = [f"x{number}" for number in range(40)]
    queries += ["q1", "q2", "é", "10"]
    lines = []
    for query in queries:
        depth = draw.randrange(1, 40)
        for document in draw.sample(documents, depth):
            score = draw.choice((0, -0.0, 1, 2.5, -3, 1e-3))
            rank = draw.randrange(9)
            lines.append(f"{query} Q0 {document} {rank} {score} some-tag\n")
    draw.shuffle(lines)
    return lines


def test_scores_that_32_bits_cannot_tell_apart_are_ties(tmp_path: Path) -> None:
    """The larger id is first, as in trec_eval, though its score was written smaller."""
    run = write_and_read(tmp_path, "q Q0 a 1 0.987654321 t\nq Q0 b 2 0.987654320 t\n")
    ranked = run.rank()
    assert ranked_ids(run, ranked) == {"q": ["b", "a"]}
    assert ranked.ties == 1


def test_repetitions_are_looked_for_in_every_block_of_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trec, "_GROUP", 3)
    pairs = []
    text = ""
    for number in range(100):
        query, document = f"q{number % 10}", f"d{number}"
        pairs.append((query, document))
        text += f"{query} Q0 {document} 1 {number} t\n"
    run = write_and_read(tmp_path, text)
    assert len(run.documents) == 100
    for query, document in pairs:
        repeated = write(tmp_path, f"{text}{query} Q0 {document} 1 0.5 t")
        with pytest.raises(RetrobenchError, match=rf"line 101: query '{query}' has document '{document}'"):
            read_run(repeated)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "holds no hit at all; for each, a run has a line with six columns: query, Q0, document, rank, score, tag.",
        ),
        ("# nothing but a head\n\n", "holds no hit at all;"),
        ("q1 0 d1 1\n", "line 1: six columns: .* were expected, not 4."),
        (f"# head\n\n{RUN}q2 Q0 d3 4 1.5 a tag\n", "line 7: six columns: .* were expected, not 7."),
        (f"{RUN}q2 Q0  d3 1.5 t\n{RUN}", "line 5: six columns: .* were expected, not 5."),
    ],
)
def test_a_faulty_run_is_named_by_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RetrobenchError, match=rf"^{file}[, ] ?{message}"):
        read_run(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q2 Q0 d3 4 1.5", "six columns: .* were expected, not 5."),
        (b"q2 Q0 d3 4 high t", "a finite score was expected in column 5, not 'high'."),
        (b"q2 Q0 d3 4 nan t", "a finite score was expected in column 5, not 'nan'."),
        (b"q2 Q0 d3 4 NaN t", "a finite score was expected in column 5, not 'NaN'."),
        (b"q2 Q0 d3 4 -inf t", "a finite score was expected in column 5, not '-inf'."),
        (b"q2 Q0 d3 4 1e39 t", "a finite score was expected in column 5, not '1e39'."),
        (b"q2 Q0 d1 4 1 t", "query 'q2' has document 'd1' on line 2 already; keep one."),
        (b"q2 Q0 \xff 4 1 t", "UTF-8 was expected."),
    ],
)
def test_a_faulty_last_line_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, RUN.encode() + line + b"\n")
    with pytest.raises(RetrobenchError, match=rf"^{file}, line 5: {message}"):
        read_run(file)


def test_a_fault_that_only_the_parser_sees_is_still_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_tags(lines: bytes) -> bytes:
        return lines.replace(b" t", b"")

    monkeypatch.setattr(trec, "_single_spaced", drop_tags)
    file = write(tmp_path, "q Q0 d 1 1 t\n")
    with pytest.raises(RetrobenchError, match=r"run\.trec cannot be read as a run \(.*\); a line has six columns: "):
        read_run(file)


@pytest.mark.parametrize("read", [read_run, read_qrels])
def test_a_file_that_cannot_be_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"absent cannot be read \(No such file or directory\)"):
        read(tmp_path / "absent")
    with pytest.raises(RetrobenchError, match=r"cannot be read \(Is a directory\)"):
        read(tmp_path)


@pytest.mark.parametrize(("read", "text"), [(read_run, RUN), (read_qrels, "q1 0 d1 1\n")])
def test_a_broken_gzip_file(read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    whole = gzip.compress(text.encode() * 50)
    broken = write(tmp_path, whole[:-9])
    with pytest.raises(RetrobenchError, match=r"run\.trec is a broken gzip file"):
        read(broken)


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
    ids=["TREC", "tabs", "repeated alike", "BEIR"],
)
def test_judgements(text: str, tmp_path: Path) -> None:
    plain = write(tmp_path, text)
    zipped = write(tmp_path, gzip.compress(text.encode()), "qrels.txt")
    assert read_qrels(plain) == TRUTH
    assert read_qrels(zipped) == TRUTH


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
    file = write(tmp_path, text)
    with pytest.raises(RetrobenchError, match=rf"^{file}[, ] ?{message}"):
        read_qrels(file)


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_enters_no_id(tmp_path: Path) -> None:
    run_file, qrels_file = tmp_path / "run", tmp_path / "qrels"
    run_file.write_bytes(MARK + b"q1 Q0 d1 1 2 t\nq1 Q0 d2 2 1 t\n")
    qrels_file.write_bytes(MARK + b"q1 0 d2 1\n")
    assert read_run(run_file).queries == ["q1"]
    assert read_qrels(qrels_file) == {"q1": {"d2": 1}}
    zipped = tmp_path / "run.gz"
    zipped.write_bytes(gzip.compress(run_file.read_bytes()))
    assert read_run(zipped).queries == ["q1"]


@pytest.mark.parametrize("line", [b"q1 Q0 d\x005 2 1 t\n", MARK + b"q2 Q0 d1 1 1 t\n"])
def test_an_id_that_no_file_can_carry_is_named(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_bytes(b"q1 Q0 d1 1 2 t\n" + line)
    with pytest.raises(RetrobenchError, match=r"run, line 2: .* ids that no TREC file can carry"):
        read_run(file)
    qrels = tmp_path / "qrels"
    columns = line.split()
    qrels.write_bytes(b"q1 0 d1 1\n" + columns[0] + b" 0 " + columns[2] + b" 1\n")
    with pytest.raises(RetrobenchError, match=r"qrels, line 2: .* ids that no TREC file can carry"):
        read_qrels(qrels)


def test_a_grade_that_is_too_large_is_named(tmp_path: Path) -> None:
    qrels = tmp_path / "qrels"
    qrels.write_text("q1 0 d1 1000\nq1 0 d2 1001\n")
    with pytest.raises(RetrobenchError, match=r"qrels, line 2: 1001 is among the grades beyond 1,000"):
        read_qrels(qrels)
