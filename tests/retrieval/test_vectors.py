"""Vectors on disk are read as they were written, by one process or several, killed or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from retrobench.errors import RetrobenchError
from retrobench.retrieval.vectors import DTYPES, Terms, Vectors, Writer
from retrobench.retrieval.vectors.layout import narrowed, widened

WORDS = 50


def rows_of(first: int, last: int, width: int) -> np.ndarray:
    """Return vectors that depend on the row number alone."""
    rows = []
    for row in range(first, last):
        draw = np.random.default_rng(row)
        rows.append(draw.normal(size=width))
    return np.stack(rows).astype(np.float32)


def terms_of(first: int, last: int) -> Terms:
    """Return sparse rows of up to six words that depend on the row number alone."""
    counts, columns, values = [0], [], []
    for row in range(first, last):
        draw = np.random.default_rng([row, 1])
        shuffled = draw.permutation(WORDS)
        count = int(draw.integers(0, 7))
        words = np.sort(shuffled[:count])
        counts.append(count)
        columns.append(words.astype(np.int32))
        values.append(draw.random(count, np.float32))
    indptr = np.cumsum(counts, dtype=np.int64)
    return Terms(indptr, np.concatenate(columns), np.concatenate(values))


def ids_of(rows: int) -> list[str]:
    return [f"d{row}" for row in range(rows)]


def fill(folder: Path, rows: int, window: int, width: int = 6, dtype: str = "float32", words: int = WORDS) -> None:
    with Writer(folder, rows, width, words, dtype, window, {"kind": "passage"}) as writer:
        for first, last in writer.windows():
            dense, terms = None, None
            if width:
                dense = rows_of(first, last, width)
            if words:
                terms = terms_of(first, last)
            writer.put(first, dense, terms)
        writer.publish(ids_of(rows))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Rows, and rows of a window.
SIZES = [(1, 8), (7, 8), (8, 8), (23, 8), (23, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "window"), SIZES)
def test_a_folder_describes_its_vectors(rows: int, window: int, dtype: str, tmp_path: Path) -> None:
    fill(tmp_path, rows, window, dtype=dtype)
    arrays = {"dense.npy", "terms.indptr.npy", "terms.indices.npy", "terms.values.npy"}
    assert contents(tmp_path).keys() == {"manifest.json", "ids.json", *arrays}
    vectors = Vectors.open(tmp_path)
    assert len(vectors) == rows
    assert vectors.width == 6
    assert vectors.words == WORDS
    assert vectors.dtype == dtype
    assert vectors.ids == ids_of(rows)
    manifest = {"rows": rows, "first": 0, "last": rows, "windows": window, "kind": "passage", "dtype": dtype}
    assert manifest.items() <= vectors.manifest.items()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "window"), SIZES)
def test_vectors_are_read_as_written(rows: int, window: int, dtype: str, tmp_path: Path) -> None:
    fill(tmp_path, rows, window, dtype=dtype)
    vectors = Vectors.open(tmp_path)
    numbers = rounded(rows_of(0, rows, 6), dtype)
    dense = vectors.dense(0, rows)
    assert dense.dtype == np.float32
    assert np.array_equal(dense, numbers)
    middle = rows // 2
    for first, last in ((0, 1), (middle, rows), (rows - 1, rows + 5)):
        assert np.array_equal(vectors.dense(first, last), numbers[first:last])
        assert_same_terms(vectors.terms(first, last), terms_of(first, min(last, rows)))
    assert vectors.dense(rows, rows).shape == (0, 6)
    no_terms = Terms(np.zeros(1), np.zeros(0), np.zeros(0))
    assert_same_terms(vectors.terms(rows, rows), no_terms)


def rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 numbers to a type of torch, and return them as float32."""
    stored = torch.from_numpy(numbers).to(getattr(torch, dtype))
    return stored.float().numpy()


def assert_same_terms(terms: Terms, expected: Terms) -> None:
    assert np.array_equal(terms.indptr, expected.indptr)
    assert np.array_equal(terms.indices, expected.indices)
    assert np.array_equal(terms.values, expected.values)


def test_numpy_maps_what_is_written(tmp_path: Path) -> None:
    fill(tmp_path, 9, 4)
    mapped = np.load(tmp_path / "dense.npy", mmap_mode="r")
    indices = np.load(tmp_path / "terms.indices.npy")
    assert np.array_equal(mapped, rows_of(0, 9, 6))
    assert mapped.offset == Vectors.open(tmp_path).raw.offset
    assert np.array_equal(indices, terms_of(0, 9).indices)


def test_bfloat16_rounds_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)
    halves = np.arange(0, 2**32, 2**15, dtype=np.uint32)  # ties
    numbers = np.concatenate([bits, halves]).view(np.float32)
    stored = narrowed(numbers, "bfloat16")
    read_back = widened(stored, "bfloat16")
    assert np.array_equal(read_back, rounded(numbers, "bfloat16"), equal_nan=True)


def test_either_part_may_be_missing(tmp_path: Path) -> None:
    for name, width, words in (("dense", 6, 0), ("terms", 0, WORDS)):
        folder = tmp_path / name
        folder.mkdir()
        fill(folder, 9, 4, width, words=words)
        vectors = Vectors.open(folder)
        assert len(vectors) == 9
        assert vectors.width == width
        assert vectors.words == words


def test_the_order_of_windows_leaves_no_trace(tmp_path: Path) -> None:
    forward, backward = two_folders(tmp_path)
    fill(forward, 23, 4)
    with Writer(backward, 23, 6, WORDS, "float32", 4, {"kind": "passage"}) as writer:
        windows = list(writer.windows())
        for first, last in reversed(windows):
            writer.put(first, rows_of(first, last, 6), terms_of(first, last))
        writer.publish(ids_of(23))
    assert contents(forward) == contents(backward)


def two_folders(root: Path) -> tuple[Path, Path]:
    """Make two folders whose files are to be compared."""
    folders = root / "expected", root / "actual"
    for folder in folders:
        folder.mkdir()
    return folders


CHILD = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_vectors import Writer, WORDS, rows_of, terms_of
with Writer(Path(sys.argv[1]), 83, 6, WORDS, "float32", 4, {"kind": "passage"}) as writer:
    for number, (first, last) in enumerate(writer.windows(wait=False)):
        if number == int(sys.argv[2]):
            writer._put_dense(first, 1 + rows_of(first, last, 6))  # half of a window
            os.kill(os.getpid(), signal.SIGKILL)
        writer.put(first, rows_of(first, last, 6), terms_of(first, last))
        time.sleep(0.01)
"""


def child(folder: Path, killed_at: int) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parent), *sys.path]
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(killed_at), *paths])


@pytest.mark.slow
def test_processes_share_the_windows_and_kills_leave_no_trace(tmp_path: Path) -> None:
    """Two processes are killed in the middle of a window, and two more get their windows."""
    alone, shared = two_folders(tmp_path)
    fill(alone, 83, 4)
    # No further process takes the last windows before a slow starter has a window to die in.
    killed = [child(shared, killed_at=0), child(shared, killed_at=2)]
    for process in killed:
        assert process.wait() == -signal.SIGKILL
    survivors = [child(shared, killed_at=1000), child(shared, killed_at=1000)]
    for process in survivors:
        assert process.wait() == 0
    with Writer(shared, 83, 6, WORDS, "float32", 4, {"kind": "passage"}) as writer:
        assert writer.done >= 83 - 8
    fill(shared, 83, 4)
    assert contents(alone) == contents(shared)


def test_a_window_that_another_holds_is_waited_for(tmp_path: Path) -> None:
    """Its process dies here, so that it is given out again."""
    holder = child(tmp_path, killed_at=0)
    assert holder.wait() == -signal.SIGKILL
    fill(tmp_path, 83, 4)
    dense = Vectors.open(tmp_path).dense(0, 83)
    assert np.array_equal(dense, rows_of(0, 83, 6))


def test_finished_windows_are_not_given_out_again(tmp_path: Path) -> None:
    arguments = (tmp_path, 23, 6, 0, "float32", 8)
    with Writer(*arguments) as writer:
        writer.put(8, rows_of(8, 16, 6))
        assert writer.done == 8
    with Writer(*arguments) as writer:
        assert list(writer.windows()) == [(0, 8), (16, 23)]
    with Writer(tmp_path, 23, 6, 0, "float16", 8) as writer:
        assert writer.done == 0, "other vectors are begun afresh"
        windows = list(writer.windows())
        assert len(windows) == 3


def test_published_and_not_yet_taken_over(tmp_path: Path) -> None:
    fill(tmp_path, 9, 4)
    published = contents(tmp_path)
    with Writer(tmp_path, 9, 6, WORDS, "float32", 4, {"kind": "passage"}) as writer:
        assert writer.done == 9
        assert list(writer.windows()) == []
        writer.publish(iter(()))
    assert contents(tmp_path) == published


def test_a_full_disk_is_an_error_not_a_death(tmp_path: Path) -> None:
    """A limit on a file's size stands in for it: rows behind it are refused as ENOSPC is."""
    code = (
        "import resource, signal, sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path\n"
        "from test_vectors import Writer, rows_of\n"
        "writer = Writer(Path(sys.argv[1]), 400, 6, window=100)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n  writer.put(100, rows_of(100, 200, 6))\n"
        "except OSError as error:\n  print(error.errno)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent), *sys.path]
    process = subprocess.run(words, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "27"
    with Writer(tmp_path, 400, 6, window=100) as writer:
        assert writer.done == 0


def test_a_number_too_large_for_its_type_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path, 3, 2, dtype="float16") as writer:
        numbers = np.asarray([[1, 2], [3, 70000], [5, 6]], np.float32)
        with pytest.raises(
            RetrobenchError, match=r"Row 1 holds 70000, which float16 cannot store\. Store .* float32\."
        ):
            writer.put(0, numbers)
        assert writer.done == 0


def test_ids_and_rows_have_to_match(tmp_path: Path) -> None:
    with Writer(tmp_path, 3, 2) as writer:
        with pytest.raises(RuntimeError, match="3 rows are not written yet"):
            writer.publish(["a", "b", "c"])
        writer.put(0, np.ones((3, 2), np.float32))
        with pytest.raises(RetrobenchError, match=r"3 rows were encoded and 2 ids are to name them"):
            writer.publish(["a", "b"])
        assert not (tmp_path / "manifest.json").exists()
        writer.publish(["ä", 'b"', "c"])
    assert Vectors.open(tmp_path).ids == ["ä", 'b"', "c"]


def damage_ids(folder: Path) -> None:
    (folder / "ids.json").write_text('["a"]')


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def foreign(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"rows": 9}))


def shorten(file: Path, count: int) -> None:
    size = file.stat().st_size
    os.truncate(file, size - count)


def cut_dense(folder: Path) -> None:
    shorten(folder / "dense.npy", 1)


def another_dtype(folder: Path) -> None:
    np.save(folder / "dense.npy", np.zeros((9, 6)))


def cut_terms(folder: Path) -> None:
    shorten(folder / "terms.values.npy", 4)


def gone(folder: Path) -> None:
    (folder / "terms.indptr.npy").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_ids, "it holds 1 ids for 9 rows"),
        (damage_manifest, "it has no manifest.json that can be read"),
        (foreign, "its manifest.json is not of the format 'retrobench vectors 1'"),
        (cut_dense, r"its dense.npy is not the array \[9, 6\]"),
        (another_dtype, r"its dense.npy is not the array \[9, 6\]"),
        (cut_terms, r"its terms.values.npy is not the array \[\d+\]"),
        (gone, r"its terms.indptr.npy cannot be read \(No such file or directory\)"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    fill(tmp_path, 9, 4)
    damage(tmp_path)
    text = f"cannot be used: {message}.* Encode the texts again"
    with pytest.raises(RetrobenchError, match=text) as error:
        Vectors.open(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"it has no manifest\.json"):
        Vectors.open(tmp_path / "none")


def test_facts_cannot_contradict_the_manifest(tmp_path: Path) -> None:
    """A model may compute in another type than its vectors are stored in; under one name a reader would be misled."""
    with pytest.raises(ValueError, match="dtype"):
        Writer(tmp_path, 3, 4, facts={"dtype": "bfloat16", "rows": 3})
    assert not any(tmp_path.iterdir())
