"""`retrobench run --limit N`: a trial whose rows say so, repeat, and stand apart."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny

from retrobench import cli
from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.rows import Row, read, write_missing_clusters
from retrobench.plan.estimate import estimate_needs
from retrobench.runs.sweep import Request, Swept, sweep
from retrobench.runs.verification import verify
from retrobench.stages import Inputs, Work, open_inputs, tokenise_documents, tokenise_queries
from retrobench.store import Artifact, Source
from retrobench.store.entries import Recipe

MINI = Path(__file__).parents[2] / "leaderboards" / "mini"
LIMIT = 16


class Trial(NamedTuple):
    """A finished trial of four entrants, beside a whole run of one."""

    tiny: tiny.Tiny
    rows: dict[str, Row]
    whole: Row

    def run(self, *entrants: str, limit: int | None = LIMIT, overrides: Sequence[str] = ()) -> Swept:
        paths = (str(self.tiny.track), (0,), overrides, self.tiny.store, self.tiny.boards)
        return sweep(Request(entrants, *paths, limit=limit))

    @property
    def test(self) -> str:
        return f"{self.tiny.data}:test"

    @property
    def folder(self) -> Path:
        return self.tiny.boards / "tiny"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    track = tiny.make(tmp_path_factory.mktemp("trial"))
    unfinished = Trial(track, {}, None)  # type: ignore[arg-type]
    rows = unfinished.run("bert", "mlm", "dupmae", "bm25").rows
    (whole,) = unfinished.run("bm25", limit=None).rows
    return Trial(track, {row.entrant: row for row in rows}, whole)


def test_a_row_names_its_limit(trial: Trial) -> None:
    for row in trial.rows.values():
        assert row.overrides["data.limit"] == LIMIT
        assert row.overrides.keys() == {"data.limit", "mine.depth"}, "6 steps of 8 examples are not shortened"
        facts = row.facts[trial.test]
        assert facts["documents"] == facts["limit"] == LIMIT
        assert facts["limited_by"] == sorted(f"{trial.tiny.data}:{split}" for split in tiny.SPLITS)
        assert 0 < facts["queries"] <= 15
        assert facts["missing"] == 0
        assert f" --limit {LIMIT}" in row.command


def test_all_entrants_are_tested_on_the_same_documents(trial: Trial) -> None:
    assert len({row.facts[trial.test]["corpus"] for row in trial.rows.values()}) == 1
    assert len({row.facts[trial.test]["qrels"] for row in trial.rows.values()}) == 1
    assert trial.rows["mlm"].facts[trial.test]["pretrained_on"] is True, "its corpus is the test's, as without a limit"
    assert trial.whole.facts[trial.test]["documents"] == tiny.DOCUMENTS


def test_datasets_of_one_corpus_are_tokenised_once(trial: Trial) -> None:
    documents = [role for role in trial.rows["mlm"].artifacts if role.startswith("tokenise") and "documents" in role]
    assert len(documents) == 1


def test_a_rerun_by_the_rows_command_appends_nothing(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read(trial.folder)
    row = trial.rows["mlm"]
    words = [*shlex.split(row.command), "--store", str(trial.tiny.store), "--leaderboard", str(trial.tiny.boards)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capfd.readouterr()
    assert not stop.value.code, printed.err
    assert read(trial.folder) == before
    first_line = printed.err.splitlines()[0]
    assert f"at most {LIMIT} documents and {LIMIT} questions" in first_line
    assert f"data.limit={LIMIT}, mine.depth=1" in first_line
    assert f"data.limit={LIMIT}" in printed.out


def test_a_fresh_run_gives_the_same_numbers(trial: Trial, tmp_path: Path) -> None:
    paths = (str(trial.tiny.track), (0,), (), tmp_path / "store", tmp_path / "boards")
    (row,) = sweep(Request(["mlm"], *paths, limit=LIMIT)).rows
    assert row.measures == trial.rows["mlm"].measures
    assert row.artifacts == trial.rows["mlm"].artifacts


def test_two_limits_and_a_whole_run_are_three_tables(trial: Trial) -> None:
    (other,) = trial.run("bm25", limit=LIMIT + 1).rows
    limited = trial.rows["bm25"]
    assert len({other.identity, limited.identity, trial.whole.identity}) == 3
    assert len({row.artifacts[f"search {trial.test}"] for row in (other, limited, trial.whole)}) == 3
    tables = compare(read(trial.folder))
    by_limit = {table.rows[0].overrides.get("data.limit"): table for table in tables}
    assert by_limit.keys() == {None, LIMIT, LIMIT + 1}
    assert not by_limit[None].is_changed
    for limit in (LIMIT, LIMIT + 1):
        assert f"with data.limit={limit}, " in by_limit[limit].heading


def test_a_limit_above_the_data_stands_apart_and_computes_nothing_anew(trial: Trial) -> None:
    (row,) = trial.run("bm25", limit=1000).rows
    assert row.overrides == {"data.limit": 1000}
    assert row.identity != trial.whole.identity
    assert row.artifacts == trial.whole.artifacts
    assert row.measures == trial.whole.measures
    assert row.facts == trial.whole.facts


def test_verify_reads_the_part_of_a_row(trial: Trial) -> None:
    verified = verify("tiny", trial.tiny.store, trial.tiny.boards).rows
    assert {row.status for row in verified} == {"ok"}, verified
    assert len(verified) >= 5


def test_clusters_of_parts_are_written_apart(trial: Trial) -> None:
    names = {file.name for file in write_missing_clusters(trial.folder)}
    for row in (trial.whole, trial.rows["mlm"]):
        assert f"{row.facts[trial.test]['qrels'][:16]}.json.gz" in names


def test_a_recipe_with_hard_negatives_of_its_own_runs(trial: Trial, tmp_path: Path) -> None:
    text = trial.tiny.track.read_text().replace("[mine]", 'hard = "no-such-dataset"\n\n[mine]')
    track = tmp_path / "hard.toml"
    track.write_text(text)
    (row,) = sweep(Request(["bert"], str(track), (0,), (), trial.tiny.store, tmp_path / "boards", limit=LIMIT)).rows
    assert row.overrides["finetune.hard"] == ""


@pytest.mark.parametrize("limit", [3, 4])
def test_the_smallest_limits_run(limit: int, trial: Trial) -> None:
    (row,) = trial.run("bert", limit=limit).rows
    assert row.facts[trial.test]["documents"] == limit


BAD = ("0", "-3", "many", "2.5", "")


@pytest.mark.parametrize("text", BAD)
def test_a_bad_limit_is_one_line(
    text: str, trial: Trial, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ("run", "plan"):
        monkeypatch.setattr(sys, "argv", ["retrobench", command, "--objective", "mlm", "--limit", text])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        assert stop.value.code == 2
        assert printed.err == f"Error: --limit must be a whole number, at least 1, got {text!r}.\n"


def test_a_plan_counts_the_part(trial: Trial) -> None:
    whole = estimate_needs(mini_experiment())
    part = estimate_needs(mini_experiment("data.limit=300"))
    (tested,) = part.tested
    assert (tested.documents, tested.queries) == (300, 300)
    tokens = [sum(item.tokens for stage in needs.stages for item in stage.items) for needs in (whole, part)]
    assert tokens[1] < tokens[0] / 5


def mini_experiment(*overrides: str) -> Experiment:
    return Experiment(read_track(MINI / "track.toml", "mini", overrides), read_entrant("mlm", discover(), []), 0)


class Keys:
    """A store that makes nothing and notes the keys."""

    def __init__(self, version: str) -> None:
        self.version = version

    def ensure(
        self, stage: str, settings: dict[str, Any], sources: Sequence[Source], make: Callable[..., Any], **names: Any
    ) -> Artifact:
        origins = [f"{source.stage}/{source.key}" for source in sources]
        key = Recipe(stage, settings, origins, self.version, names.get("code", "")).key
        return Artifact(stage, key, Path(), True, {}, tuple(sources))


def test_without_a_limit_the_keys_are_those_of_the_shipped_rows() -> None:
    """The keys of every further stage hold these."""
    line = (MINI / "rows.jsonl").read_text("utf-8").splitlines()[0]
    shipped = json.loads(line)
    experiment = mini_experiment()
    (inputs,) = open_inputs([experiment])
    work = Work(experiment, inputs, Keys(shipped["version"]))  # type: ignore[arg-type]
    made = token_keys(work, inputs)
    expected = {role: key for role, key in shipped["artifacts"].items() if role in made}
    assert made == expected
    assert len(made) == 3
    limited = replace(experiment, track=read_track(MINI / "track.toml", "mini", ["data.limit=300"]))
    (part,) = open_inputs([limited])
    assert not set(token_keys(replace(work, inputs=part, artifacts={}), part).values()) & set(made.values())


def token_keys(work: Work, inputs: Inputs) -> dict[str, str]:
    """Return the keys of the tokenised texts of mini by their roles."""
    keys = {}
    for split in ("fit", "val"):
        name = f"retrobench/squad/{split}"
        keys[f"tokenise {name} queries"] = tokenise_queries(work, inputs.collections[name]).key
    name = "retrobench/squad/test"
    keys[f"tokenise {name} documents"] = tokenise_documents(work, inputs.collections[name].corpus, True).key
    return keys
