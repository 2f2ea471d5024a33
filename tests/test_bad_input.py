"""A user's mistake is one line and exit code 2, before any training, and leaves no files behind."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny

from retrobench import cli

COMMAND = [sys.executable, "-c", "from retrobench.cli import main; main()"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """Write the track that every test copies."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def track(original: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tiny.Tiny:
    """Return a track in the working directory that a test may damage."""
    shutil.copytree(original.data, tmp_path / "data")
    shutil.copytree(original.base, tmp_path / "base")
    (tmp_path / "tiny.toml").write_text(tiny.TRACK.format(base="base", data="data"))
    monkeypatch.chdir(tmp_path)
    return tiny.Tiny(Path("data"), Path("base"), Path("tiny.toml"), Path("store"), Path("boards"))


@pytest.fixture
def refuse(track: tiny.Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command line and returns its error.

    It checks that only `stages` have finished, and that no row was written.
    """

    def call(*words: str, objectives: Sequence[str] = ("mlm",), stages: Sequence[str] = ()) -> str:
        monkeypatch.setattr(sys, "argv", ["retrobench", *track.options(*objectives), *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        output = capfd.readouterr()
        assert stop.value.code == 2
        *progress, error = output.err.splitlines()
        assert output.out == ""
        assert error.startswith("Error: ")
        assert "Traceback" not in output.err
        finished = {path.parent.name for path in track.store.glob("*/*") if path.is_dir() and not path.suffix}
        assert finished == set(stages)
        assert bool(progress) == bool(stages), "without a stage, only the error is printed"
        assert not [path for path in Path("boards").rglob("*.jsonl") if path.is_file()]
        return error.removeprefix("Error: ")

    return call


def spoil(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


Refuse = Callable[..., str]


def test_an_unknown_objective_suggests_the_nearest(refuse: Refuse) -> None:
    text = refuse(objectives=["bert", "retromea"])
    assert text == (
        "Unknown objective 'retromea'. Did you mean 'retromae'? Known: bert, bm25, bow-mae, cocondenser, condenser, "
        "contriever, cot-mae, dupmae, lexmae, mlm, retromae, simlm. "
        "`retrobench objectives` lists them."
    )


def test_an_unknown_preset_names_the_known_ones(refuse: Refuse) -> None:
    assert refuse(objectives=["dupmae:papr"]) == (
        "Unknown dupmae preset 'papr'. Did you mean 'paper'? Known: as_released, paper."
    )


def test_an_unknown_track_names_the_known_ones(refuse: Refuse) -> None:
    text = refuse("--track", "minni")
    assert text.startswith("Unknown track 'minni'. Did you mean 'mini'? Known: base, beir, beir-bow,")
    assert refuse("--track", "gone.toml").startswith("No track file 'gone.toml'.")


SETTINGS = {
    "pretrain.step=3": "Unknown pretrain key 'pretrain.step'. Did you mean 'pretrain.steps'? Known: pretrain.batch",
    "pretain.steps=3": "Unknown track key 'pretain.steps'. Did you mean 'pretrain.steps'? Known: adapt.batch,",
    "steps=3": "--set takes SECTION.KEY=VALUE, such as pretrain.steps=200, not 'steps=3'.",
    "pretrain.steps": "--set takes SECTION.KEY=VALUE, such as pretrain.steps=200, not 'pretrain.steps'.",
    "pretrain.steps=many": "pretrain.steps must be a whole number, got 'many' (track tiny).",
    "pretrain.batch=0": "pretrain.batch must be at least 1, got 0 (track tiny).",
    "mine.depth=-1": "mine.depth must be at least 0, got -1 (track tiny).",
    "finetune.temperature=0": "finetune.temperature must be above 0, got 0.0 (track tiny).",
    "evaluate.measures=['MRR@10', 'NDCG@10']": "evaluate: Unknown measure 'NDCG@10'. Did you mean 'nDCG@10'? ",
    "evaluate.measures=[]": "evaluate: datasets and measures may not be empty (track tiny).",
    "entrant.representation=csl": "Unknown representation 'csl'. Did you mean 'cls'? Known: cls, cls+terms, mean, t",
    "objective.mask_ratio=2": "objective.mask_ratio must be below 1, got 2.0 (mlm).",
    "finetune.gradient_cache=-1": "finetune.gradient_cache must be at least 0, got -1 (track tiny).",
    "objective.mask_rate=0.2": "Unknown setting 'objective.mask_rate'. Did you mean 'objective.mask_ratio'?",
    "entrant.chekpoint=x": "Unknown setting 'entrant.chekpoint'. Did you mean 'entrant.checkpoint'?",
    "finetune.shards=3": "finetune: shards is 3 and batch is 8; shards must divide batch",
    "pretrain.corpus=[]": "pretrain.corpus must name one or more datasets, got [] (track tiny).",
    "finetune.queries=''": "finetune.queries must name a dataset, got '' (track tiny).",
    "evaluate.select=no/such": "Unknown dataset 'no/such'. Known: retrobench/squad, retrobench/squad/fit, ",
    "model.base=no-such-folder": "Model 'no-such-folder' is neither a folder, nor one of retrobench/base, retrobench/",
    "pretrain.max_length=100": "pretrain.max_length is 100, and the model 'base' takes 64 tokens. Set it lower.",
    "evaluate.passage_length=100": "evaluate.passage_length is 100, and the model 'base' takes 64 tokens. Set it low",
    "evaluate.rounds=all": "evaluate.rounds must be one of 'chosen', 'every', got 'all' (track tiny).",
    "evaluate.index=IVF0,Flat": "faiss makes no index 'IVF0,Flat': a size in it is 0. Give --index exact, or a factory",
    "evaluate.index=PQ7": "faiss makes no index 'PQ7' of vectors of 16 numbers: The dimension of the vector (d) should",
    "adapt.corpus=['data:train']": "adapt.batch is missing; adapt.learning_rate is missing; adapt.steps is missing, or",
    "finetune.hard=data:train": "No file data/negatives/train.tsv. Splits with negatives there: none.",
    "distil.scores=gone.tsv": "No file 'gone.tsv' of a teacher's scores. Set distil.scores to one.",
    "distil.teacher=no-such-model": "Model 'no-such-model' is neither a folder, nor one of retrobench/base, retrob",
    "distil.teacher=base": "The teacher 'base' gives 2 numbers for a pair; give a cross-encoder with one.",
    "distil.temperature=0": "distil.temperature must be above 0, got 0.0 (track tiny).",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_wrong_override(setting: str, refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    objectives = ["mlm"] if setting.startswith("objective") else ["bert", "mlm"]
    assert refuse("--set", setting, objectives=objectives).startswith(SETTINGS[setting])


CONFLICTS: dict[tuple[str, ...], str] = {
    (
        "finetune.hard=data:train",
        "finetune.negatives=0",
    ): "finetune.negatives must be at least 1 for the negatives of finetune.hard, got 0",
    (
        "mine.depth=5",
        "finetune.negatives=0",
    ): "finetune.negatives must be at least 1 for mined negatives, got 0, unless mine.depth is 0",
    (
        "distil.teacher=x",
        "mine.depth=0",
    ): "mine.depth must be at least 1, got 0, unless distil.scores replaces distil.teacher",
    (
        "distil.teacher=x",
        "distil.scores=y",
    ): "distil: teacher and scores are both given; one of them must be empty (track tiny).",
    (
        "pretrain.steps=3",
        "pretrain.epochs=1",
    ): "pretrain: steps is 3 and epochs is 1; one of them must be 0 (track tiny).",
}


@pytest.mark.parametrize("settings", CONFLICTS)
def test_conflicting_overrides(settings: tuple[str, ...], refuse: Refuse) -> None:
    words = []
    for setting in settings:
        words += ["--set", setting]
    assert refuse(*words, objectives=["bert", "mlm"]).startswith(CONFLICTS[settings])


def test_negatives_of_unknown_queries(refuse: Refuse, track: tiny.Tiny) -> None:
    (track.data / "negatives").mkdir()
    file = track.data / "negatives" / "train.tsv"
    file.write_text("query-id\tcorpus-id\n")
    words = ("--set", "finetune.hard=data:train")
    assert refuse(*words) == "Dataset 'data:train' holds no negatives. Check its files."
    file.write_text("query-id\tcorpus-id\nnobody\td1\n")
    assert refuse(*words, objectives=["bert"], stages=["tokenise"]) == (
        "The negatives of 'data:train' name no query and document of 'data:train'. Check the ids."
    )


def test_a_test_on_questions_of_the_training(refuse: Refuse) -> None:
    error = refuse("--set", "evaluate.datasets=['data:test', 'data:train']", objectives=["bm25", "mlm"])
    assert error == (
        "50 of the 50 questions of data:train (q0, q1, q2, ...) are questions of data:train, which finetune.queries "
        "trains on. Name other questions in the track, or add --allow-overlap: the row and its table then say so."
    )


def test_a_test_on_questions_of_the_validation(refuse: Refuse) -> None:
    assert refuse("--set", "evaluate.select=data:test").startswith(
        "15 of the 15 questions of data:test (q65, q66, q67, ...) are questions of data:test, which evaluate.select "
        "chooses the round on. "
    )


def test_a_test_on_a_copy_of_training_questions(refuse: Refuse, track: tiny.Tiny) -> None:
    copy = shutil.copytree(track.data, Path("copy"))
    rows = [json.loads(line) for line in (copy / "queries.jsonl").read_text().splitlines()]
    tiny.write_lines(copy / "queries.jsonl", [{"_id": f"n{row['_id']}", "text": f"{row['text']}?"} for row in rows])
    judgements = (track.data / "qrels" / "train.tsv").read_text().replace("\nq", "\nnq")
    (copy / "qrels" / "test.tsv").write_text(judgements)
    text = refuse("--set", "evaluate.datasets=['copy']")
    assert text.startswith("50 of the 50 questions of copy (nq0, nq1, nq2, ...) are questions of data:train, ")


FILES = {
    "pretrain key": (
        "learning_rate = 1e-3",
        "learnin_rate = 1e-3",
        "Unknown setting 'pretrain.learnin_rate'. Did you mean 'pretrain.learning_rate'?",
    ),
    "section": ("[mine]", "[mines]", "Unknown section 'mines'. Did you mean 'mine'? Known: adapt, data, distil"),
    "heading": (
        "title =",
        "titel =",
        "Unknown setting 'titel'. Did you mean 'title'? Known: description, title",
    ),
    "type": ("depth = 10", "depth = 'ten'", "mine.depth must be a whole number, got 'ten' (track tiny)."),
    "lacking": ("learning_rate = 2e-3\n", "", "finetune.learning_rate is missing (track tiny)."),
    "toml": ("[mine]", "[mine", "tiny.toml is not TOML: "),
    "measure": ('"MAP"]', '"P@3"]', "evaluate: Unknown measure 'P@3'. "),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_wrong_track_file(kind: str, refuse: Refuse, track: tiny.Tiny) -> None:
    old, new, text = FILES[kind]
    spoil(track.track, old, new)
    assert refuse().startswith(text)


def test_an_unknown_key_in_the_file_names_the_known_ones(refuse: Refuse, track: tiny.Tiny) -> None:
    spoil(track.track, "queries = 40", "querys = 40")
    assert refuse() == (
        "Unknown setting 'mine.querys'. Did you mean 'mine.queries'? Known: mine.depth, mine.queries, mine.skip "
        "(track tiny)."
    )


def test_one_error_lists_all_missing_keys(refuse: Refuse, track: tiny.Tiny) -> None:
    text = track.track.read_text().replace('base = "base"\n', "").replace("batch = 8\n", "")
    track.track.write_text(text)
    assert refuse() == "model.base is missing; pretrain.batch is missing; finetune.batch is missing (track tiny)."


def test_a_wrong_entrant_file(refuse: Refuse, track: tiny.Tiny) -> None:
    file = track.track.with_name("mine.toml")
    for text, error in {
        'objective = "mlm"\nseed = 1': "Unknown setting 'seed'. ",
        'name = "x"': "objective is missing (entrant file mine.toml).",
        'objective = "mlm"\n[settings]\nmask = 1': "Unknown setting 'objective.mask'. Did you mean",
        'objective = "mlm"\nsettings = 3': "In the entrant file mine.toml settings is 3; expected a table [settings].",
    }.items():
        file.write_text(text)
        assert refuse(objectives=["bert", "mine.toml"]).startswith(error)
    assert refuse(objectives=["gone.toml"]).startswith("Cannot read gone.toml: No such file or directory.")


def empty_the_corpus(data: Path) -> None:
    (data / "corpus.jsonl").write_text("")


def remove_judgements(data: Path) -> None:
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")


def remove_split(data: Path) -> None:
    (data / "qrels" / "val.tsv").unlink()


COLLECTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty corpus": (empty_the_corpus, "data/corpus.jsonl is empty; one JSON object per line is expected."),
    "no judgements": (remove_judgements, "Dataset 'data:test' holds no judgements; there is nothing to run on."),
    "no split": (remove_split, "No file data/qrels/val.tsv. Splits there: test, train; name one as data:SPLIT."),
    "no folder": (shutil.rmtree, "Unknown dataset 'data:test'. Known: "),
    "no corpus": (lambda data: (data / "corpus.jsonl").unlink(), "Folder data has no corpus.jsonl; BEIR's layout is"),
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_a_wrong_collection(kind: str, refuse: Refuse, track: tiny.Tiny) -> None:
    damage, text = COLLECTIONS[kind]
    damage(track.data)
    assert refuse().startswith(text)
    if kind != "no split":  # BM25 has no rounds to choose from
        assert refuse(objectives=["bm25"]).startswith(text)


def change_family(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "distilbert"}))


def pickle_weights(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


BASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "family": (change_family, "Unknown backbone family of base 'distilbert'. Did you mean 'bert'? Known: bert, modern"),
    "pickled": (
        pickle_weights,
        "The model folder 'base' holds no safetensors, and nothing pickled is loaded. `retrobench convert",
    ),
    "no config": (lambda base: (base / "config.json").unlink(), "The model folder 'base' holds no config.json with"),
    "no tokenizer": (lambda base: (base / "tokenizer.json").unlink(), "The model folder 'base' holds no tokenizer; a"),
}


@pytest.mark.parametrize("kind", BASES)
def test_a_wrong_base(kind: str, refuse: Refuse, track: tiny.Tiny) -> None:
    damage, text = BASES[kind]
    damage(track.base)
    assert refuse().startswith(text)
    # A checkpoint has the same checks.
    spoil(track.track, 'base = "base"', 'base = "retrobench/tokenizer"')
    assert refuse("--set", "entrant.checkpoint=base").startswith(text)


COUPLED = """
from dataclasses import dataclass
from typing import ClassVar

from retrobench import hookimpl
from retrobench_mlm import MaskedLanguageModelling

@dataclass(frozen=True)
class Coupled(MaskedLanguageModelling):
    contract: ClassVar[int] = 1
    name: ClassVar[str] = "coupled"
    couples_batch: ClassVar[bool] = True

@hookimpl
def retrobench_objectives():
    return [Coupled]
"""


def test_an_objective_that_couples_its_batch_and_gives_no_vectors(refuse: Refuse) -> None:
    Path("coupled.py").write_text(COUPLED)
    assert refuse(
        "--plugin", "coupled.py", "--set", "pretrain.shards=2", objectives=["coupled"], stages=["tokenise"]
    ) == (
        "coupled: couples_batch is True, so forward() must give vectors, not None. "
        "`retrobench objectives check coupled` tries it."
    )


RETURNS = {
    "no Step": (
        "return dict(super().step(model, progress, **batch).losses)",
        "forward() must give a Step with losses, ",
    ),
    "a number": ("return Step({'mlm': 1.0}, {})", "'mlm' must be a tensor without dimensions, not a float."),
    "no losses": ("return Step({}, {})", "forward() must give a Step with losses, and it has none."),
}


BROKEN = """
from dataclasses import dataclass
from typing import ClassVar

from retrobench import Step, hookimpl
from retrobench_mlm import MaskedLanguageModelling

@dataclass(frozen=True)
class Broken(MaskedLanguageModelling):
    name: ClassVar[str] = "broken"

    def step(self, model, progress, **batch):
        {body}

@hookimpl
def retrobench_objectives():
    return [Broken]
"""


@pytest.mark.parametrize("kind", RETURNS)
def test_an_objective_that_breaks_the_contract_at_work(kind: str, refuse: Refuse) -> None:
    body, text = RETURNS[kind]
    Path("broken.py").write_text(BROKEN.format(body=body))
    line = refuse("--plugin", "broken.py", objectives=["broken"], stages=["tokenise"])
    assert line.startswith(f"broken: {text}")
    assert line.endswith("`retrobench objectives check broken` tries it.")


def test_a_folder_where_the_rows_should_be_is_refused_before_the_training(refuse: Refuse, track: tiny.Tiny) -> None:
    rows = track.boards / "tiny" / "rows.jsonl"
    rows.mkdir(parents=True)
    text = refuse()
    assert text == f"Cannot write rows to {rows}. Mend it, or give another --leaderboard DIR."
    assert not track.store.exists()


def test_a_file_where_the_leaderboard_should_be_is_refused_before_the_training(
    refuse: Refuse, track: tiny.Tiny
) -> None:
    track.boards.write_text("mine")
    assert refuse().startswith(f"Cannot write rows to {track.boards.resolve()}. ")
    assert not track.store.exists()
