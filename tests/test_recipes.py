"""The recipes of the papers on a tiny collection: both kinds of negatives, adaptation, a teacher, a row a round."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from sentence_transformers import CrossEncoder
from test_resume import FORKING, IMPORTS, Kill, contents, killed
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from retrobench import rules
from retrobench.data import load
from retrobench.errors import RetrobenchError
from retrobench.experiment import Distil
from retrobench.leaderboard import Row, read
from retrobench.objective import Vocabulary
from retrobench.stages.examples import Candidates, Examples, Round
from retrobench.stages.finetune import Contrastive, distillation
from retrobench.stages.negatives import grouped
from retrobench.stages.start import load_tokenizer
from retrobench.stages.teach import look_at_teacher, read_scores
from retrobench.sweep import Request, Swept, sweep
from retrobench.tokens import TokenisedTexts

VOCABULARY = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
SPLITS = {"train": "train", "dev": "val", "dl19": "test"}

# What makes the recipes small: the ids of their datasets stay, and are looked up among local collections.
SMALL = [
    *("pretrain.steps=2", "pretrain.batch=8", "pretrain.max_length=40", "pretrain.log_every=1"),
    *("finetune.epochs=1", "finetune.batch=16", "finetune.passage_length=40", "finetune.query_length=12"),
]
LARGE = [
    *("adapt.steps=4", "adapt.batch=8", "adapt.max_length=40", "adapt.log_every=1"),
    *("finetune.negatives=3", "mine.depth=10", "distil.negatives=3", "distil.max_length=60"),
    "finetune.checkpoint_every=1",
]


class Recipe(NamedTuple):
    """A tiny base, a teacher, and the collections that the recipes name."""

    tiny: tiny.Tiny
    teacher: Path
    data: Path

    def overrides(self, track: str) -> list[str]:
        more = [*LARGE, f"distil.teacher={self.teacher}"] if track == "msmarco" else []
        return [f"model.base={self.tiny.base}", *SMALL, *more]

    def run(self, track: str, *entrants: str, more: Sequence[str] = (), **changed: Any) -> Swept:
        asked = Request(entrants, track, (0,), (*self.overrides(track), *more), self.tiny.store, self.tiny.boards)
        return sweep(asked._replace(**changed))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    folder = tmp_path_factory.mktemp("recipe")
    made = tiny.make(folder)
    write_recipe_data(made, folder / "collections")
    write_teacher(folder / "teacher", labels=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETROBENCH_DATA", str(folder / "collections"))
        yield Recipe(made, folder / "teacher", folder / "collections")


def write_recipe_data(made: tiny.Tiny, folder: Path) -> None:
    """`msmarco-titled`, `msmarco-sbert` and `wikibook` out of the tiny collection."""
    documents = [json.loads(line) for line in (made.data / "corpus.jsonl").read_text().splitlines()]
    positives = {(query, document) for query, document, _ in load(f"{made.data}:train").judgements()}
    for name, titled in {"msmarco-titled": True, "msmarco-sbert": False}.items():
        for part in ("qrels", "negatives"):
            (folder / name / part).mkdir(parents=True)
        tiny.write_lines(folder / name / "corpus.jsonl", [row if titled else {**row, "title": ""} for row in documents])
        (folder / name / "queries.jsonl").write_text((made.data / "queries.jsonl").read_text())
        for split, source in SPLITS.items():
            (folder / name / "qrels" / f"{split}.tsv").write_text((made.data / "qrels" / f"{source}.tsv").read_text())
        judged = (folder / name / "qrels" / "dl19.tsv").read_text().splitlines()
        (folder / name / "qrels" / "dl20.tsv").write_text("\n".join(judged[:8]) + "\n")
        # q0 has 5 negatives and one of its own positives among them, q1 none, q2 one, the others four.
        sizes = {0: 5, 1: 0, 2: 1}
        rows = [(f"q{query}", f"d{(7 * query + at) % 58}") for query in range(50) for at in range(sizes.get(query, 4))]
        rows += [pair for pair in positives if pair[0] == "q0"] + [("q77", "d1"), ("q3", "nowhere")]
        text = "".join(f"{query}\t{document}\n" for query, document in rows)
        (folder / name / "negatives" / "train.tsv").write_text("query-id\tcorpus-id\n" + text)
    (folder / "wikibook").mkdir()
    tiny.write_lines(folder / "wikibook" / "corpus.jsonl", [{**row, "title": ""} for row in documents[:30]])


def write_teacher(folder: Path, labels: int) -> None:
    """A cross-encoder of one layer with weights large enough for its scores to differ."""
    words = tiny.tokenizer()
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": words.pad_token_id}
    torch.manual_seed(1)
    shape |= {"num_labels": labels}  # which the configuration's own signature lacks
    model = BertForSequenceClassification(BertConfig(vocab_size=len(words), **shape))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


@pytest.fixture(scope="module")
def msmarco(recipe: Recipe) -> Swept:
    """The track `msmarco` for an entrant that pre-trains and one that does not."""
    return recipe.run("msmarco", "retromae", "bert")


def test_a_row_for_every_round(recipe: Recipe, msmarco: Swept) -> None:
    rows = msmarco.rows
    assert read(msmarco.folder) == rows
    names = [(row.entrant, row.round) for row in rows]
    assert names == [(name, kind) for name in ("retromae", "bert") for kind in ("in-batch", "mined", "distilled")]
    assert len({row.identity for row in rows}) == 1 and rows[0].track == "msmarco"
    for row in rows:
        assert list(row.measures) == [f"msmarco-titled:{split}" for split in ("dev", "dl19", "dl20")]
        assert {"MRR@10", "Recall@1000", "Success@50", "nDCG@10"} <= row.measures["msmarco-titled:dev"].keys()
        assert row.selection == {} and row.chosen == row.round
        assert ("adapt" in row.artifacts) == ("pretrain" in row.artifacts) == (row.entrant == "retromae")
    assert len({json.dumps(row.measures) for row in rows}) == 6, "each round and entrant has numbers of its own"


def test_a_row_owes_to_its_own_stages_alone(msmarco: Swept) -> None:
    first, second, third = msmarco.rows[:3]
    assert "negatives" in first.artifacts and "mine" not in first.artifacts and "finetune 2" not in first.artifacts
    assert "mine" in second.artifacts and "teach" not in second.artifacts
    assert {"finetune", "finetune 2", "finetune 3", "mine", "teach", "negatives"} <= third.artifacts.keys()
    for row in (first, second, third):
        assert sum(name.startswith("score") for name in row.artifacts) == 3
        assert first.cost["pretrain"] == row.cost["pretrain"] and first.cost["adapt"] == row.cost["adapt"]
    assert third.cost["finetune"]["seconds"] > second.cost["finetune"]["seconds"] > first.cost["finetune"]["seconds"]
    assert third.cost["teach"]["seconds"] > 0


def test_facts_of_a_row(msmarco: Swept) -> None:
    facts = msmarco.rows[0].facts["msmarco-titled:dev"]
    wanted = {"titles": "[SEP]", "query_length": 12, "passage_length": 40, "similarity": "dot", "documents": 60}
    assert wanted.items() <= facts.items()
    assert facts["precision"] in ("bf16", "fp32") and facts["queries"] == 15 and len(facts["corpus"]) == 64
    assert {"qrels", "relevance_level", "missing", "self_hits_removed", "ties"} <= facts.keys()


def artifact(recipe: Recipe, row: Row, stage: str) -> Path:
    return recipe.tiny.store / stage.split(" ")[0] / row.artifacts[stage]


def examples(recipe: Recipe, row: Row, kind: Any = "judgement") -> Examples:
    """The training examples, as the stages read them."""
    entry = json.loads((artifact(recipe, row, "negatives") / "entry.json").read_text())
    documents, queries = (recipe.tiny.store / source for source in entry["sources"])
    return Examples(queries, documents, "msmarco-titled:train", kind)


def test_given_negatives(recipe: Recipe, msmarco: Swept) -> None:
    row = msmarco.rows[0]
    found, of = np.load(artifact(recipe, row, "negatives") / "candidates.npy"), examples(recipe, row)
    assert len(of) == len(found) == 60, "50 queries, 10 of which have two positives"
    names = [[of.documents.ids[at] for at in of_one if at >= 0] for of_one in found]
    asked = [of.queries.ids[at] for at in of.query_rows]
    positives = [{of.documents.ids[at] for at in relevant} for relevant in of.relevant]
    for query, given, own in zip(asked, names, positives, strict=True):
        number = int(query[1:])
        listed = [f"d{(7 * number + at) % 58}" for at in range({0: 5, 1: 0, 2: 1}.get(number, 4))]
        assert given == [name for name in listed if name not in own]
    assert names[asked.index("q1")] == [] and len(of.positives[0]) == 1 and asked[:2] == ["q0", "q0"]


def test_adaptation_starts_from_the_general_encoder(recipe: Recipe, msmarco: Swept) -> None:
    row = msmarco.rows[0]
    entry = json.loads((artifact(recipe, row, "adapt") / "entry.json").read_text())
    assert entry["sources"][0] == f"pretrain/{row.artifacts['pretrain']}"
    assert entry["settings"]["max_length"] == 40 and entry["settings"]["steps"] == 4
    tuned = json.loads((artifact(recipe, row, "finetune") / "entry.json").read_text())
    assert tuned["sources"][0] == f"adapt/{row.artifacts['adapt']}"
    third = json.loads((artifact(recipe, msmarco.rows[2], "finetune 3") / "entry.json").read_text())
    assert third["sources"][0] == tuned["sources"][0] and third["settings"]["round"] == "distilled"
    before, after = (
        [json.loads(line) for line in (artifact(recipe, row, stage) / "log.jsonl").read_text().splitlines()]
        for stage in ("pretrain", "adapt")
    )
    assert len(before) == 2 and len(after) == 4 and after[0]["mlm"] != before[0]["mlm"]


def test_titles_end_in_the_separator(recipe: Recipe, msmarco: Swept) -> None:
    texts = examples(recipe, msmarco.rows[0]).documents
    separator = load_tokenizer(recipe.tiny.base).sep_token_id
    titled = [texts[row].title.tolist() for row in range(58)]
    assert all(len(title) > 1 and title[-1] == separator and separator not in title[:-1] for title in titled)
    assert texts[59].title.tolist() == [], "no title, no separator"
    assert all(texts[row].title_starts[-1] for row in range(58))


def test_epochs_are_resolved_from_the_examples(recipe: Recipe, msmarco: Swept) -> None:
    log = (artifact(recipe, msmarco.rows[0], "finetune") / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 60 // 16 - 1, "once over 60 judgements, 16 at a time"


def test_the_teacher_scored_candidates_and_positives(recipe: Recipe, msmarco: Swept) -> None:
    row = msmarco.rows[2]
    folder, of = artifact(recipe, row, "teach"), examples(recipe, row)
    candidates, scores = np.load(folder / "candidates.npy"), np.load(folder / "scores.npy")
    positives = np.load(folder / "positive_scores.npy")
    assert np.array_equal(candidates, np.load(artifact(recipe, row, "mine") / "candidates.npy"))
    assert scores.shape == candidates.shape == (60, 10) and positives.shape == (60, 1)
    assert np.array_equal(np.isfinite(scores), candidates >= 0) and np.isfinite(positives).all()
    dataset = load("msmarco-titled:train")
    texts = {d.id: f"{d.title} {d.text}".strip() for d in dataset.documents()}
    asked = {query.id: query.text for query in dataset.queries()}
    model = CrossEncoder(str(recipe.teacher), device="cpu", max_length=60)
    for at in (0, 17, 59):
        query = asked[of.queries.ids[of.query_rows[at]]]
        read_ = [
            texts[of.documents.ids[place]] for place in (of.positives[at][0], candidates[at, 0], candidates[at, 9])
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=row.facts["msmarco-titled:dev"]["precision"] == "bf16"):
            wanted = model.predict([[query, text] for text in read_], activation_fn=nn.Identity())
        found = [positives[at, 0], scores[at, 0], scores[at, 9]]
        assert found == pytest.approx(wanted.tolist(), abs=1e-2)
    assert scores.min() < 0 and np.ptp(scores) > 0.1, "raw numbers, not squeezed into 0..1"
    assert not (folder / "scores.part").exists()


def test_a_rerun_is_read_from_the_store(recipe: Recipe, msmarco: Swept, capfd: pytest.CaptureFixture[str]) -> None:
    assert recipe.run("msmarco", "bert").rows == msmarco.rows[3:]
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("==")]
    assert len(said) > 30 and all(": cached " in line for line in said)


def test_the_beir_recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round on given negatives, without titles; tested with them, longer, over a group with its mean."""
    monkeypatch.setattr(rules, "GROUPS", {"beir": ("msmarco-titled:dev", "msmarco-titled:dl19")})
    monkeypatch.setattr(rules, "MEANS", {"beir": "beir (mean of 2 tiny sets)"})
    more = ("evaluate.passage_length=60", "evaluate.query_length=20")
    retro, bm25 = recipe.run("beir", "retromae", "bm25", more=more).rows
    assert retro.round == "" and retro.chosen == "in-batch" and retro.selection == {}
    assert list(retro.measures) == ["beir (mean of 2 tiny sets)", "msmarco-titled:dev", "msmarco-titled:dl19"]
    for row in (retro, bm25):
        first, *others = row.measures.values()
        assert first["nDCG@10"] == pytest.approx(np.mean([values["nDCG@10"] for values in others]))
        assert row.facts.keys() == {"msmarco-titled:dev", "msmarco-titled:dl19"}
    facts = retro.facts["msmarco-titled:dev"]
    assert (facts["titles"], facts["query_length"], facts["passage_length"]) == ("space", 20, 60)
    assert bm25.facts["msmarco-titled:dev"]["titles"] == "space"
    assert "mine" not in retro.artifacts and "adapt" not in retro.artifacts
    tuned = json.loads((artifact(recipe, retro, "finetune") / "entry.json").read_text())
    settings = tuned["settings"]
    assert (settings["titles"], settings["passage_length"], settings["negatives"]) == (False, 40, 1)
    trained_on = TokenisedTexts.open(recipe.tiny.store / tuned["sources"][1])
    assert not trained_on.title_lengths.any()
    encoded = [json.loads(file.read_text()) for file in recipe.tiny.store.glob("encode/*/entry.json")]
    lengths = {entry["settings"]["max_length"] for entry in encoded if entry["sources"][0].endswith(tuned["key"])}
    assert lengths == {20, 60}


# Killed and taken up again

KILLS = {
    "teach": Kill("teach", "candidates.npy", "scores.part"),
    "distilled": Kill("finetune", "step-000000002.new/state.json", "step-000000001/state.safetensors", 2),
}


@pytest.mark.skipif(FORKING is None, reason="needs fork")
def test_killed_in_the_later_stages_and_started_again(
    recipe: Recipe, msmarco: Swept, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert FORKING is not None
    FORKING.set_forkserver_preload(IMPORTS)
    broken = recipe.tiny._replace(store=tmp_path / "store", boards=tmp_path / "boards")
    words = [*broken.options("retromae"), "--track", "msmarco"]
    words += [word for text in recipe.overrides("msmarco") for word in ("--set", text)]
    said = {name: killed(words, broken, kill) for name, kill in KILLS.items()}
    assert "\ncontinuing at query 32\n" in said["distilled"] and "continuing" not in said["teach"]
    capfd.readouterr()
    last = recipe.run("msmarco", "retromae", store=broken.store, leaderboard=broken.boards).rows
    assert "\ncontinuing at step 1\n" in capfd.readouterr().err
    for row, other in zip(msmarco.rows, last, strict=False):
        for name in ("round", "measures", "artifacts", "identity", "facts"):
            assert getattr(row, name) == getattr(other, name)
    expected, found = contents(recipe.tiny.store), contents(broken.store)
    assert {Path(name).name for name in found} >= {"scores.npy", "model.safetensors", "run.trec"} and len(last) == 3
    assert [name for name in found if found[name] != expected[name]] == []


# Batches


def rows_of(recipe: Recipe, msmarco: Swept, kind: str = "judgement", **settings: Any) -> Round:
    of, row = examples(recipe, msmarco.rows[2], kind), msmarco.rows[2]
    folder = artifact(recipe, row, settings.pop("stage", "negatives"))
    candidates = Candidates.open(folder)
    if kind == "query":  # the artifact has a row for each judgement; the first of each query
        at = [examples(recipe, row).query_rows.tolist().index(query) for query in of.query_rows.tolist()]
        candidates = Candidates(candidates.rows[at])
    return Round(of, VOCABULARY, 12, 40, candidates, **settings)


def test_what_a_query_with_too_few_negatives_gets(recipe: Recipe, msmarco: Swept) -> None:
    draw = torch.Generator().manual_seed(0)
    repeat = rows_of(recipe, msmarco, "query", negatives=3)
    asked = [repeat.examples.queries.ids[at] for at in repeat.examples.query_rows]
    none, one = asked.index("q1"), asked.index("q2")
    (only_one,) = (at for at in repeat.candidates.rows[one] if at >= 0)  # type: ignore[union-attr]
    assert repeat._negatives(none, draw) == ([], []) and repeat._negatives(one, draw)[0] == [only_one] * 3
    filled = rows_of(recipe, msmarco, "query", negatives=3, lacking="random")
    assert len(filled._negatives(none, draw)[0]) == 3 and filled._negatives(one, draw)[0][0] == only_one
    drawn = [tuple(filled._negatives(none, draw)[0]) for _ in range(5)]
    assert len(set(drawn)) == 5 and all(0 <= row < 60 for rows in drawn for row in rows)
    dropped = rows_of(recipe, msmarco, "query", negatives=3, lacking="drop")
    assert none not in dropped.rows and len(dropped.rows) == 49 == len(dropped.lengths)
    assert dropped.names(np.asarray([0, 1])) == ["query q0", "query q2"]
    batch = dropped.collate(np.asarray([1]), draw)
    assert batch["passage_ids"].shape[0] == 1 + 3


def test_a_querys_other_positive_is_no_negative(recipe: Recipe, msmarco: Swept) -> None:
    """Where each judgement is an example, RetroMAE's code lets them compete."""
    round_ = rows_of(recipe, msmarco, negatives=0)
    assert round_.examples.query_rows[:2].tolist() == [0, 0]
    rival = round_.collate(np.asarray([0, 1, 2]), torch.Generator().manual_seed(0))["rival"]
    assert rival.tolist() == [[True, False, True], [False, True, True], [True, True, True]]


def test_a_batch_of_the_distilled_round(recipe: Recipe, msmarco: Swept) -> None:
    round_ = rows_of(recipe, msmarco, stage="teach", negatives=3)
    found = round_.candidates
    assert found is not None and found.scores is not None and found.positive_scores is not None
    batch = round_.collate(np.arange(20), torch.Generator().manual_seed(0))
    group, teacher, passages = batch["group"], batch["teacher"], batch["passage_ids"]
    lengths = batch["passage_attention_mask"].sum(1).tolist()
    assert passages.shape[0] == 20 * 4 and group.shape == teacher.shape == (20, 4)
    assert sorted(group.flatten().tolist()) == list(range(80))
    for query in range(20):
        known = {packed(round_, at): found.scores[query, place] for place, at in enumerate(found.rows[query])}
        own, *others = (tuple(passages[at, : lengths[at]].tolist()) for at in group[query])
        assert own == packed(round_, round_.examples.positives[query][0])
        assert teacher[query, 0] == found.positive_scores[query, 0]
        assert teacher[query, 1:].tolist() == [known[text] for text in others]


def packed(round_: Round, row: int) -> tuple[int, ...]:
    passage = round_.examples.documents[row]
    return (2, *[*passage.title.tolist(), *passage.text.tolist()][:38], 3)


def test_grouped_by_hand() -> None:
    table = grouped(np.asarray([2, 0, 2, 2]), 4, np.asarray([7, 8, 9, 6], np.int32), -1)
    assert table.tolist() == [[8, -1, -1], [-1, -1, -1], [7, 9, 6], [-1, -1, -1]]
    assert grouped(np.zeros(0, np.int64), 2, np.zeros(0, np.float32), np.nan).shape == (2, 1)


# The loss


STUDENT, TEACHER = torch.tensor([[1.0, 3.0, 2.0], [0.0, 2.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # that torch's "mean" is to change is why ours is a sum
@pytest.mark.parametrize(("loss", "reduction", "by"), [("element-mean", "mean", 6), ("batch-mean", "batchmean", 2)])
def test_distillation_by_hand(loss: Any, reduction: str, by: int) -> None:
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        q = [np.exp(value / 2) / sum(np.exp(other / 2) for other in student) for value in student]
        p = [np.exp(value) / sum(np.exp(other) for other in teacher) for value in teacher]
        total += sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    found = distillation(STUDENT, TEACHER, Distil(loss=loss, temperature=2.0))
    assert found.item() == pytest.approx(total / by, rel=1e-6)
    theirs = nn.KLDivLoss(reduction=reduction)(torch.log_softmax(STUDENT / 2, 1), torch.softmax(TEACHER, 1))
    assert found.item() == pytest.approx(theirs.item(), rel=1e-6)
    same = distillation(TEACHER, TEACHER, Distil(loss=loss))
    assert same.item() == pytest.approx(0, abs=1e-7)


def test_the_distilled_rounds_loss_is_both_parts() -> None:
    class Fixed(nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return ids.float()

        def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
            return queries @ passages.T

    settings = Distil(loss="batch-mean", temperature=2.0, contrastive=0.5)
    model, mask = Contrastive(Fixed(), 1.0, settings), torch.ones(1, 1)  # type: ignore[arg-type]
    queries, passages = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.0], [3.0], [2.0], [0.0], [1.0]])
    group = torch.tensor([[0, 2, 3], [1, 4, 5]])
    out = model(0.0, queries, mask, passages, mask, torch.ones(2, 6, dtype=torch.bool), group, TEACHER)
    student = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 2.0]])
    assert out.losses["distillation"].item() == pytest.approx(distillation(student, TEACHER, settings).item())
    scores = np.asarray([[1, 0, 3, 2, 0, 1], [2, 0, 6, 4, 0, 2]], float)
    by_hand = np.mean(np.log(np.exp(scores).sum(1)) - scores[[0, 1], [0, 1]])
    assert out.losses["contrastive"].item() == pytest.approx(0.5 * by_hand)


# Scores from a file


def scored(recipe: Recipe, msmarco: Swept, text: str, name: str = "scores.tsv") -> Candidates:
    file = recipe.teacher.with_name(name)
    content = text.encode()
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return read_scores(file, examples(recipe, msmarco.rows[0]))


LINES = "query-id\tcorpus-id\tscore\nq0\td1\t1.5\nq3\td2\t-2\nq0\td2\t0.25\nnobody\td2\t1\nq0\tnowhere\t1\n"


@pytest.mark.parametrize("name", ["scores.tsv", "scores.tsv.gz"])
def test_scores_of_a_file(name: str, recipe: Recipe, msmarco: Swept) -> None:
    of = examples(recipe, msmarco.rows[0])
    own = of.documents.ids[of.positives[1][0]]
    found = scored(recipe, msmarco, LINES + f"q0\t{own}\t9\n", name)
    assert found.scores is not None and found.positive_scores is not None
    row_of = {document: row for row, document in enumerate(of.documents.ids)}
    assert found.rows[0].tolist() == found.rows[1].tolist() == [row_of["d1"], row_of["d2"]]
    assert found.scores[1].tolist() == [1.5, 0.25]
    assert found.positive_scores[:2, 0].tolist() == [pytest.approx(np.nan, nan_ok=True), 9.0]
    third = of.query_rows.tolist().index(of.queries.ids.index("q3"))
    assert found.rows[third].tolist() == [row_of["d2"], -1]
    # Only the judgement whose positive has a score is left to learn from.
    assert Round(of, VOCABULARY, 12, 40, found, negatives=2).rows.tolist() == [1]


def test_faulty_scores_are_named(recipe: Recipe, msmarco: Swept) -> None:
    body = LINES.partition("\n")[2]
    with pytest.raises(
        RetrobenchError, match=r"scores\.tsv has no header; let its first line be query-id, corpus-id, s"
    ):
        scored(recipe, msmarco, body)
    for line in ("q1\td1", "q1\td1\thigh", "q1\td1\tnan"):
        with pytest.raises(RetrobenchError, match=r"scores\.tsv, line 7: query-id, corpus-id and a finite score with"):
            scored(recipe, msmarco, LINES + line + "\n")
    found = scored(recipe, msmarco, LINES)
    with pytest.raises(RetrobenchError, match="No training query is left that has a hard negative"):
        Round(examples(recipe, msmarco.rows[0]), VOCABULARY, 12, 40, found, negatives=2)


def test_a_file_of_scores_in_place_of_a_teacher(recipe: Recipe, msmarco: Swept, tmp_path: Path) -> None:
    of, first = examples(recipe, msmarco.rows[0]), msmarco.rows[5]
    folder = artifact(recipe, first, "teach")
    rows, scores, own = (np.load(folder / f"{name}.npy") for name in ("candidates", "scores", "positive_scores"))
    lines = ["query-id\tcorpus-id\tscore"]
    for at, query in enumerate(of.query_rows):
        pairs = [(of.positives[at][0], own[at, 0]), *zip(rows[at], scores[at], strict=True)]
        lines += [f"{of.queries.ids[query]}\t{of.documents.ids[row]}\t{float(score)!r}" for row, score in pairs]
    # A query with two positives is two examples with the same candidates.
    (tmp_path / "scores.tsv").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    more = ("distil.teacher=", f"distil.scores={tmp_path / 'scores.tsv'}")
    swept = recipe.run("msmarco", "bert", more=more, leaderboard=tmp_path)
    assert [row.round for row in swept.rows] == ["in-batch", "mined", "distilled"]
    assert swept.rows[1].artifacts["finetune 2"] == msmarco.rows[4].artifacts["finetune 2"]
    assert swept.rows[2].measures == first.measures, "the same scores teach the same, whoever gave them"


def test_a_teacher_that_cannot_be_used(tmp_path: Path) -> None:
    write_teacher(tmp_path / "two", labels=2)
    with pytest.raises(RetrobenchError, match=r"two' gives 2 numbers for a pair; give a cross-encoder with one\."):
        look_at_teacher(str(tmp_path / "two"))
    write_teacher(tmp_path / "one", labels=1)
    assert look_at_teacher(str(tmp_path / "one")) == tmp_path / "one"
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "one" / "pytorch_model.bin")
    with pytest.raises(RetrobenchError, match="holds no safetensors, and nothing pickled is loaded"):
        look_at_teacher(str(tmp_path / "one"))
    (tmp_path / "one" / "config.json").unlink()
    with pytest.raises(RetrobenchError, match=r"holds no config\.json that can be read; give a cross-encoder\."):
        look_at_teacher(str(tmp_path / "one"))
