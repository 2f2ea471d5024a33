"""The shipped tracks: their identities, a source on every line, and the recipes' arithmetic."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from retrobench.config import Distil, Experiment, Pretrain, Reading, Track, read_entrant, read_track
from retrobench.config.discovery import discover
from retrobench.config.reading import SECTIONS
from retrobench.core.settings import types_of
from retrobench.data import groups
from retrobench.errors import RetrobenchError

BOARDS = Path(__file__).parents[2] / "leaderboards"
RECIPES = ("msmarco", "msmarco-dupmae", "msmarco-bow", "beir", "beir-dupmae", "beir-bow")
PASSAGES = 8_841_823  # of MS MARCO


def read(name: str, *overrides: str) -> Track:
    """Read a shipped track."""
    return read_track(BOARDS / name / "track.toml", name, overrides)


def read_text(folder: Path, text: str, *overrides: str) -> Track:
    """Read a track "t" from text."""
    (folder / "track.toml").write_text(text)
    return read_track(folder / "track.toml", "t", overrides)


def test_an_identity_changes_with_every_setting_but_performance() -> None:
    mini = read("mini")
    assert read("mini", "representation.stored=float32", "adapt.corpus=[]", "evaluate.index=exact") == mini
    for override in ("representation.stored=float16", "finetune.hard=x", "evaluate.index=IVF64,Flat", "mine.skip=1"):
        changed = read("mini", override)
        assert changed.identity != mini.identity
        assert list(changed.overrides) == [override.partition("=")[0]]
    knobs = read(
        "mini",
        *("finetune.gradient_cache=4096", "pretrain.compile=off", "evaluate.attention=math"),
        *("pretrain.probe_every=5", "pretrain.probe_steps=3", "pretrain.probe_documents=9", "pretrain.probe_dataset=x"),
    )
    assert knobs.identity == mini.identity
    assert knobs.overrides == {}
    assert replace(mini, distil=Distil(scores="x")).identity != mini.identity
    assert replace(mini, name="other", title="other").identity == mini.identity


SETTING = re.compile(r"(\w+) = (\"[^\"]*\"|\[[^\]]*\]|[^#\"\[]+)  # (.+)")
SOURCE = re.compile(r"\b(P\d|R\w*:|B\w*:|V3|B|R|ours|off|transformers|nothing|\w+\.(py|sh):)")
UNSOURCED = {
    "index",
    "stored",
    "compile",
    "gradient_cache",
    "attention",
    "probe_every",
    "probe_steps",
    "probe_documents",
    "probe_dataset",
}  # no recipe describes disks, indexes, the machine or probes


def sourced_keys(name: str) -> dict[str, set[str]]:
    """Return the keys of a track's file by section, and check that every line names its source."""
    lines = (BOARDS / name / "track.toml").read_text().splitlines()
    keys: dict[str, set[str]] = {}
    section: set[str] = set()
    for line in lines[lines.index("[model]") :]:
        if not line:
            continue
        heading = re.fullmatch(r"\[(\w+)\]", line)
        if heading:
            section = keys.setdefault(heading[1], set())
            continue
        setting = SETTING.fullmatch(line)
        assert setting is not None, f"no source: {line}"
        assert SOURCE.search(setting[3]), f"no source: {line}"
        section.add(setting[1])
    return keys


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_has_a_line_with_its_source(name: str) -> None:
    keys = sourced_keys(name)
    assert set(keys) | {"adapt", "data"} == set(SECTIONS), "no recipe limits its data"
    for section in keys:
        expected = types_of(SECTIONS[section]).keys() - UNSOURCED
        if section == "model":
            expected = {"base", "layers"}  # further keys shape a random model
        if section == "distil" and not read(name).distil.teacher:
            expected = {"teacher", "scores"}
        absent = expected - keys[section]
        assert absent <= {"steps", "epochs", "titles", "transfer"}, section
        assert absent & {"steps", "epochs"} != {"steps", "epochs"}, section


ENTRANTS = {
    "bert": (),
    "mlm": ("wikibook",),
    "retromae": ("wikibook",),
    "bow-mae": ("wikibook",),
    "dupmae": ("wikibook",),
    "bm25": (),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_objective_goes_with_every_recipe(name: str) -> None:
    track = read(name)
    installed = discover()
    dataset_count = 25  # 13 sets and 12 forums
    if name.startswith("msmarco"):
        dataset_count = 3
    for entrant, first_corpus in ENTRANTS.items():
        experiment = Experiment(track, read_entrant(entrant, installed, []), 0)
        assert experiment.corpora[:1] == first_corpus
        assert len(experiment.datasets) == dataset_count


def test_the_arithmetic_of_retromaes_recipe() -> None:
    track = read("msmarco")
    assert track.adapt is not None
    assert track.adapt.resolved(PASSAGES).steps == 20 * (PASSAGES // 1024) == 172_680
    assert track.adapt.titles is True
    assert track.pretrain.titles is False
    finetune = track.finetune
    assert finetune.batch * (1 + finetune.negatives) == 2048
    assert finetune.resolved(532_761).steps == 4 * (532_761 // 128) == 16_648
    assert finetune.reading.titles == "[SEP]"
    assert finetune.rate(0) == 2e-5
    assert replace(finetune, epochs=0.0, steps=4).rate(2) == 1e-5


def test_the_arithmetic_of_bows_recipe() -> None:
    track = read("msmarco-bow")
    assert track.adapt is not None
    for settings in (track.pretrain, track.adapt):
        assert settings.batch == 2048
        assert settings.shards % 8 == 0
    assert track.pretrain.rate(1999) == 1.5e-4
    assert track.pretrain.rate(3999) == 3e-4
    assert track.pretrain.rate(4000) == 3e-4
    assert track.pretrain.rate(140_000) == pytest.approx(3e-5)
    assert track.finetune.resolved(502_939).steps == 23_574
    assert track.finetune.resolved(400_782).steps == 18_786
    assert (track.mine.skip, track.mine.depth) == (2, 198)  # ranks 3 to 200


def test_the_arithmetic_of_the_beir_recipe() -> None:
    track = read("beir")
    assert track.finetune.batch * (1 + track.finetune.negatives) == 2048
    assert track.adapt is None
    assert not track.distil.on
    assert track.finetune.reading.titles is False
    assert track.evaluate.titles is True
    assert track.evaluate.passage_length == 512


def test_unpublished_settings_are_those_of_retromae() -> None:
    assert read("beir-dupmae").identity == read("beir").identity
    retromae = read("msmarco")
    dupmae = read("msmarco-dupmae")
    assert replace(dupmae.distil, loss="element-mean", contrastive=1e-4) == retromae.distil
    assert replace(dupmae, distil=retromae.distil).identity == retromae.identity


def test_groups_are_expanded_and_counted_once() -> None:
    track = read("beir", "evaluate.datasets=['beir/nfcorpus', 'beir/cqadupstack', 'beir/cqadupstack/tex']")
    bert = read_entrant("bert", discover(), [])
    experiment = Experiment(track, bert, 0)
    assert experiment.datasets == ("beir/nfcorpus/test", *groups.expand("beir/cqadupstack"))


def test_epochs_are_counted_in_whole_batches() -> None:
    settings = Pretrain(batch=8, learning_rate=1e-3, epochs=3.0, shards=2)
    assert settings.resolved(43).steps == 15  # 5 batches, 3 times
    assert settings.resolved(43).epochs == 0.0
    assert settings.resolved(3).steps == 3, "fewer examples than a batch are a batch"
    assert replace(settings, epochs=0.01).resolved(43).steps == 1
    assert replace(settings, epochs=0.0).resolved(43).steps == 0, "no budget is no training"


def test_warmup_as_a_number_of_steps() -> None:
    settings = Pretrain(steps=10, batch=1, learning_rate=1.0, warmup=4, schedule="constant")
    rates = [settings.rate(step) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert replace(settings, warmup=0.0).rate(0) == 1.0
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
    assert track.overrides["pretrain.steps"] == 7
    assert track.overrides["pretrain.epochs"] == 0.0
    message = r"^pretrain: steps is 7 and epochs is 2; one of them must be 0 \(track t\)\.$"
    with pytest.raises(RetrobenchError, match=message):
        read_text(tmp_path, PLAIN, "pretrain.steps=7", "pretrain.epochs=2")


def test_a_budget_has_to_be_named(tmp_path: Path) -> None:
    without_budget = PLAIN.replace("steps = 5\n", "")
    message = r"^finetune\.steps is missing, or finetune\.epochs in its place \(track t\)\.$"
    with pytest.raises(RetrobenchError, match=message):
        read_text(tmp_path, without_budget)

    without_training = PLAIN.replace("steps = 5\n", "steps = 0\n")
    assert read_text(tmp_path, without_training).finetune.steps == 0


def test_adapt_can_be_turned_off(tmp_path: Path) -> None:
    whole = read_text(tmp_path, PLAIN)
    assert whole.adapt is not None
    turned_off = read_text(tmp_path, PLAIN, "adapt.corpus=[]")
    assert turned_off.adapt is None
    assert turned_off.overrides == {"adapt.corpus": []}
    assert turned_off.identity != whole.identity

    before_adapt, _, from_adapt = PLAIN.partition("[adapt]")
    _, _, after_adapt = from_adapt.partition("[finetune]")
    without_section = read_text(tmp_path, f"{before_adapt}[finetune]{after_adapt}")
    assert without_section.identity == turned_off.identity


def test_titles_are_joined_by_a_space_by_the_separator_or_not_at_all(tmp_path: Path) -> None:
    assert read_text(tmp_path, PLAIN).finetune.reading.titles == "[SEP]"
    assert read_text(tmp_path, PLAIN, "finetune.titles=true").finetune.reading.titles is True
    assert read_text(tmp_path, PLAIN, "finetune.titles=false").finetune.reading.titles is False
    message = r"^finetune\.titles must be true or false or one of '\[SEP\]', got '\|' \(track t\)"
    with pytest.raises(RetrobenchError, match=message):
        read_text(tmp_path, PLAIN, "finetune.titles=|")


def test_texts_may_be_read_differently_at_test(tmp_path: Path) -> None:
    plain = read_text(tmp_path, PLAIN)
    assert plain.finetune.reading == Reading("[SEP]", 32, 144)
    assert plain.test_reading == plain.finetune.reading
    changed = read_text(tmp_path, PLAIN, "evaluate.titles=false", "evaluate.passage_length=9")
    assert changed.test_reading == Reading(False, 32, 9)
    assert changed.finetune.reading == plain.finetune.reading


def test_performance_knobs_keep_the_identity() -> None:
    plain = read("msmarco")
    cached = read("msmarco", "finetune.gradient_cache=4096")
    assert cached.finetune.performance.gradient_cache == 4096
    assert cached.identity == plain.identity
    assert not cached.overrides
