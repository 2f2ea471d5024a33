"""The tracks that ship: identities that may not move, a source on every line, and the recipes' own arithmetic."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from retrobench.config import Distil, Experiment, Pretrain, Reading, Track
from retrobench.config.discovery import discover
from retrobench.config.reading import SECTIONS, read_entrant, read_track
from retrobench.core.settings import types_of
from retrobench.data import rules
from retrobench.errors import RetrobenchError

BOARDS = Path(__file__).parents[2] / "leaderboards"
RECIPES = ("msmarco", "msmarco-dupmae", "msmarco-bow", "beir", "beir-dupmae", "beir-bow")
PASSAGES = 8_841_823  # of MS MARCO


def read(name: str, *overrides: str) -> Track:
    return read_track(BOARDS / name / "track.toml", name, overrides)


def read_text(folder: Path, text: str, *overrides: str) -> Track:
    (folder / "track.toml").write_text(text)
    return read_track(folder / "track.toml", "t", overrides)


def test_an_identity_changes_with_every_setting_but_performance() -> None:
    mini = read("mini")
    assert read("mini", "representation.stored=float32", "adapt.corpus=[]", "evaluate.index=exact") == mini
    for override in ("representation.stored=float16", "finetune.hard=x", "evaluate.index=IVF64,Flat", "mine.skip=1"):
        changed = read("mini", override)
        assert changed.identity != mini.identity
        assert changed.overrides == {override.partition("=")[0]: changed.overrides[override.partition("=")[0]]}
    assert read("mini", "finetune.gradient_cache=4096", "pretrain.compile=off").identity == mini.identity
    assert replace(mini, distil=Distil(scores="x")).identity != mini.identity
    assert replace(mini, name="other", title="other").identity == mini.identity


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_there_with_its_source(name: str) -> None:
    lines = (BOARDS / name / "track.toml").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line == "[model]")
    given: dict[str, set[str]] = {}
    for line in filter(None, lines[start:]):
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = given.setdefault(heading[1], set())
            continue
        setting = re.fullmatch(r"(\w+) = (\"[^\"]*\"|\[[^\]]*\]|[^#\"\[]+)  # (.+)", line)
        assert setting, f"no source: {line}"
        assert re.search(r"\b(P\d|R\w*:|B\w*:|V3|B|R|ours|off|transformers|nothing|\w+\.(py|sh):)", setting[3]), line
        section.add(setting[1])
    for heading_, record in SECTIONS.items():
        known = types_of(record).keys() - {
            "index",
            "stored",
        }  # no recipe says how vectors are kept or searched
        if heading_ == "model":
            known = {"base", "layers"}  # the rest shapes a random model
        if heading_ == "distil" and 'teacher = ""' in "\n".join(lines):
            known = {"teacher", "scores"}
        if heading_ in given:
            left = known - given[heading_]
            left -= {"compile", "gradient_cache"}  # how the machine comes by a step, which no paper's recipe is about
            left -= {"stored"}  # nor are they about disks
            assert left <= {"steps", "epochs", "titles"} and len(left & {"steps", "epochs"}) < 2, (heading_, left)
    assert set(given) | {"adapt"} == set(SECTIONS)


@pytest.mark.parametrize("name", RECIPES)
def test_every_objective_goes_with_every_recipe(name: str) -> None:
    found = discover()
    for entrant in ("bert", "mlm", "retromae", "bow-mae", "dupmae", "bm25"):
        x = Experiment(read(name), read_entrant(entrant, found, []), 0)
        assert x.corpora[:1] == (() if entrant in ("bert", "bm25") else ("wikibook",))
        assert len(x.datasets) == (3 if name.startswith("msmarco") else 25)  # 13 sets and 12 forums


def test_the_recipes_arithmetic() -> None:
    retro, bow = read("msmarco"), read("msmarco-bow")
    assert retro.adapt and bow.adapt
    assert retro.adapt.resolved(PASSAGES).steps == 20 * (PASSAGES // 1024) == 172_680
    assert retro.finetune.batch * (1 + retro.finetune.negatives) == 2048
    assert retro.finetune.resolved(532_761).steps == 4 * (532_761 // 128) == 16_648
    assert retro.finetune.reading.titles == "[SEP]" and retro.adapt.titles is True and retro.pretrain.titles is False
    assert [retro.finetune.rate(0), replace(retro.finetune, epochs=0.0, steps=4).rate(2)] == [2e-5, 1e-5]
    assert (bow.pretrain.batch * bow.pretrain.accumulation, bow.adapt.batch * bow.adapt.accumulation) == (2048, 2048)
    assert bow.pretrain.rate(3999) == bow.pretrain.rate(4000) == 3e-4 and bow.pretrain.rate(1999) == 1.5e-4
    assert bow.pretrain.rate(140_000) == pytest.approx(3e-5)
    assert bow.finetune.resolved(502_939).steps == 23_574 and bow.finetune.resolved(400_782).steps == 18_786
    assert (bow.mine.skip, bow.mine.depth) == (2, 198)  # ranks 3 to 200
    beir = read("beir")
    assert beir.finetune.batch * (1 + beir.finetune.negatives) == 2048 and beir.adapt is None and not beir.distil.on
    assert (beir.finetune.reading.titles, beir.evaluate.titles, beir.evaluate.passage_length) == (False, True, 512)


def test_what_is_not_published_is_as_in_retromae() -> None:
    assert read("beir-dupmae").identity == read("beir").identity
    retro, dup = read("msmarco"), read("msmarco-dupmae")
    assert replace(dup.distil, loss="element-mean", contrastive=1e-4) == retro.distil
    assert replace(dup, distil=retro.distil).identity == retro.identity


def test_groups_are_expanded_and_counted_once() -> None:
    found = discover()
    track = read("beir", "evaluate.datasets=['beir/nfcorpus', 'beir/cqadupstack', 'beir/cqadupstack/tex']")
    x = Experiment(track, read_entrant("bert", found, []), 0)
    assert x.datasets == ("beir/nfcorpus/test", *rules.FORUMS)


def test_epochs_are_counted_in_whole_batches() -> None:
    settings = Pretrain(batch=8, learning_rate=1e-3, epochs=3.0, accumulation=2)
    assert settings.resolved(43).steps == 8  # 5 batches, 3 times, 2 a step: 7.5
    assert settings.resolved(43).epochs == 0.0
    assert settings.resolved(43, processes=2).steps == 4
    assert settings.resolved(3).steps == 2, "fewer examples than a batch are a batch"
    assert replace(settings, epochs=0.01).resolved(43).steps == 1
    assert replace(settings, epochs=0.0).resolved(43).steps == 0, "no budget is no training"


def test_warmup_as_a_number_of_steps() -> None:
    settings = Pretrain(steps=10, batch=1, learning_rate=1.0, warmup=4, schedule="constant")
    assert [settings.rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert replace(settings, warmup=0.0).rate(0) == 1.0
    assert replace(settings, warmup=0.4) == replace(settings, warmup=0.4)
    assert replace(settings, warmup=0.4).rate(1) == 0.5


PLAIN = """
[model]
base = "b"
[pretrain]
epochs = 2
batch = 4
learning_rate = 1e-3
corpus = ["c"]
[adapt]
epochs = 1
batch = 4
learning_rate = 1e-3
corpus = ["d"]
[finetune]
steps = 5
batch = 4
learning_rate = 1e-3
queries = "q"
titles = "[SEP]"
[evaluate]
datasets = ["e"]
"""


def test_steps_on_the_command_line_replace_epochs(tmp_path: Path) -> None:
    track = read_text(tmp_path, PLAIN, "pretrain.steps=7", "finetune.epochs=0.5")
    assert (track.pretrain.steps, track.pretrain.epochs) == (7, 0.0)
    assert (track.finetune.steps, track.finetune.epochs) == (0, 0.5)
    assert track.overrides["pretrain.steps"] == 7 and track.overrides["pretrain.epochs"] == 0.0
    with pytest.raises(
        RetrobenchError, match=r"^pretrain: steps is 7 and epochs is 2; one of them must be 0 \(track t\)\.$"
    ):
        read_text(tmp_path, PLAIN, "pretrain.steps=7", "pretrain.epochs=2")


def test_a_budget_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(
        RetrobenchError, match=r"^finetune\.steps is missing, or finetune\.epochs in its place \(track t\)\.$"
    ):
        read_text(tmp_path, PLAIN.replace("steps = 5\n", ""))
    assert read_text(tmp_path, PLAIN.replace("steps = 5\n", "steps = 0\n")).finetune.steps == 0


def test_adapt_can_be_turned_off(tmp_path: Path) -> None:
    whole, without = read_text(tmp_path, PLAIN), read_text(tmp_path, PLAIN, "adapt.corpus=[]")
    assert whole.adapt is not None and without.adapt is None
    assert without.overrides == {"adapt.corpus": []}
    cut = PLAIN[: PLAIN.index("[adapt]")] + PLAIN[PLAIN.index("[finetune]") :]
    assert read_text(tmp_path, cut).identity == without.identity != whole.identity


def test_titles_are_joined_by_a_space_by_the_separator_or_not_at_all(tmp_path: Path) -> None:
    assert read_text(tmp_path, PLAIN).finetune.reading.titles == "[SEP]"
    assert read_text(tmp_path, PLAIN, "finetune.titles=true").finetune.reading.titles is True
    assert read_text(tmp_path, PLAIN, "finetune.titles=false").finetune.reading.titles is False
    with pytest.raises(
        RetrobenchError, match=r"^finetune\.titles must be true or false or one of '\[SEP\]', got '\|' \(track t\)"
    ):
        read_text(tmp_path, PLAIN, "finetune.titles=|")


def test_texts_may_be_read_otherwise_at_test(tmp_path: Path) -> None:
    plain = read_text(tmp_path, PLAIN)
    assert plain.test_reading == plain.finetune.reading == Reading("[SEP]", 32, 144)
    other = read_text(tmp_path, PLAIN, "evaluate.titles=false", "evaluate.passage_length=9")
    assert other.test_reading == Reading(False, 32, 9) and other.finetune.reading == plain.finetune.reading


def test_performance_knobs_make_no_other_track() -> None:
    plain, cached = read("msmarco"), read("msmarco", "finetune.gradient_cache=4096")
    assert cached.finetune.performance.gradient_cache == 4096
    assert cached.identity == plain.identity and not cached.overrides
