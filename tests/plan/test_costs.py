"""The batch that fits a machine, the time of a stage, and the shares of the peak that training reaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from leaderboard_rows import row
from plans import BOX, H200, card_for, find_stage, plan_needs, tiny_training

from retrobench.leaderboard.rows import append, read
from retrobench.plan import costs, machines
from retrobench.plan.costs import Fit, find_gradient_cache, fit_step
from retrobench.plan.needs import Kind, StageNeeds, WorkItem

MINI = Path(__file__).parents[2] / "leaderboards" / "mini"


def test_pretraining_that_does_not_fit_is_cut_into_more_shards() -> None:
    card = card_for(5.5)
    stage = tiny_training("pretrain", 8)
    assert fit_step(stage, card) == Fit(batch=8, shards=2)
    assert fit_step(tiny_training("pretrain", 8, shards=4), card) == Fit(batch=8, shards=4)
    assert fit_step(tiny_training("pretrain", 16, shards=2), card) == Fit(batch=16, shards=4)
    assert fit_step(stage, card, gpus=2) == Fit(batch=8, shards=2)
    assert fit_step(stage, card, gpus=4) == Fit(batch=8, shards=4)
    assert fit_step(stage, card_for(0.5)) == Fit(batch=0, shards=1)


def test_finetuning_that_does_not_fit_shrinks() -> None:
    card = card_for(5.5)
    larger_card = card_for(20.5)
    stage = tiny_training("finetune", 8)
    larger_stage = tiny_training("finetune", 32)
    assert fit_step(stage, card) == Fit(batch=5, shards=1)
    assert fit_step(stage, card, gpus=2) == Fit(batch=8, shards=2)
    assert fit_step(tiny_training("finetune", 8, shards=4), card, gpus=2) == Fit(batch=8, shards=4)
    assert fit_step(larger_stage, larger_card) == Fit(batch=16, shards=1)  # a multiple of 8


def test_without_a_card_main_memory_holds_ids_and_model() -> None:
    host_bytes = 2 * 68 * 10 * 1000.0  # as much as two examples take
    stage = replace(tiny_training("finetune", 8), host=host_bytes)
    machine = replace(card_for(5.5), gpu=False)
    assert fit_step(stage, machine) == Fit(batch=3, shards=1)


def test_a_gradient_cache_takes_the_memory_of_its_tokens() -> None:
    stage = tiny_training("finetune", 64)
    card = card_for(5.5)
    assert fit_step(stage, card).batch == 5
    assert find_gradient_cache(stage, card) == 4096
    assert stage.step is not None
    cached = replace(stage.step, gradient_cache=4096, texts=3)
    assert cached.fixed_bytes - stage.step.fixed_bytes == 68 * 10 * 4096
    assert cached.example_bytes == 8 * 10 * 3


def test_no_gradient_cache_for_pretraining_or_a_card_without_room() -> None:
    pretraining = tiny_training("pretrain", 64)
    finetuning = tiny_training("finetune", 64)
    assert find_gradient_cache(pretraining, card_for(5.5)) == 0
    assert find_gradient_cache(finetuning, card_for(0.5)) == 0


def test_a_gradient_cache_takes_a_third_more_time() -> None:
    plain = find_stage(plan_needs("msmarco"), "finetune mined")
    cached = find_stage(plan_needs("msmarco", "finetune.gradient_cache=65536"), "finetune mined")
    plain_flops = plain.items[0].flops
    cached_flops = cached.items[0].flops
    assert cached_flops == pytest.approx(plain_flops * 4 / 3)


def stage_of(kind: Kind) -> StageNeeds:
    """Return a stage of one item with 1e9 tokens and 1e18 FLOPs."""
    return StageNeeds("", (WorkItem(kind, tokens=1e9, flops=1e18),))


@pytest.mark.parametrize(
    ("kind", "speedup"),
    [("tokenise", 1), ("pretrain", 4), ("finetune", 4), ("encode", 4), ("teach", 1), ("search", 4)],
)
def test_several_gpus_share_trainings_encoding_and_search(kind: Kind, speedup: int) -> None:
    stage = stage_of(kind)
    alone = costs.estimate_seconds(stage, H200)
    shared = costs.estimate_seconds(stage, H200, gpus=4)
    assert shared.floor == pytest.approx(alone.floor / speedup)
    assert shared.expected == pytest.approx(alone.expected / speedup)


def test_a_teacher_reads_as_an_encoder_does() -> None:
    teacher = costs.estimate_seconds(stage_of("teach"), H200)
    encoder = costs.estimate_seconds(stage_of("encode"), H200)
    assert teacher == encoder


def test_search_without_a_card_goes_by_cores() -> None:
    search = StageNeeds("", (WorkItem("search", flops=1e12),))
    flops_per_query = 2 * 100_000 * 384
    queries_per_second = 1_100  # on two cores
    floor, expected = costs.estimate_seconds(search, BOX)
    assert floor == pytest.approx(1e12 / 1e9)
    assert expected == pytest.approx(1e12 / (queries_per_second * flops_per_query))


@pytest.fixture
def mini_with_a_row(tmp_path: Path) -> Path:
    """Return a leaderboard with the track mini and a row of a processor P."""
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "track.toml").write_bytes((MINI / "track.toml").read_bytes())
    cost = {
        "pretrain": {"tokens_per_second": 100.0},
        "finetune": {"tokens_per_second": 500.0},
        "encode": {"tokens_per_second": 1000.0},
    }
    hardware = {"processor": "P", "device": "cpu", "threads": 2}
    append(folder, row("retromae", hardware=hardware, cost=cost), {})
    return tmp_path


def test_shares_are_those_of_the_rows_of_mini(mini_with_a_row: Path) -> None:
    """The row's rates are of two threads, and a share is of one core's peak."""
    layer = 393_216 + 4 * 128 * 128  # FLOPs of a token in a layer of the base, at 128 tokens
    head = 2_129_920
    encoding = 2 * layer
    finetuning = 3 * encoding
    pretraining = 3 * (encoding + 0.3 * head + layer + head)
    peak = 917_504_000
    shares = machines.read_shares(peak, mini_with_a_row, "P")
    assert shares.encode == pytest.approx(1000 * encoding / 2 / peak)
    assert shares.finetune == pytest.approx(500 * finetuning / 2 / peak)
    assert shares.pretrain == pytest.approx(100 * pretraining / 2 / peak)
    assert shares.source == "measured: 1 rows of mini on P"


def test_a_share_is_at_most_1(mini_with_a_row: Path) -> None:
    assert machines.read_shares(1.0, mini_with_a_row, "P").encode == 1.0


def test_a_processor_without_rows_has_default_shares(mini_with_a_row: Path) -> None:
    shares = machines.read_shares(1e9, mini_with_a_row, "Q")
    assert shares.encode == 0.35
    assert "no row of mini" in shares.source


def test_the_shipped_rows_give_shares() -> None:
    shipped = [row for row in read(MINI) if row.objective == "retromae"]
    processor = str(shipped[0].hardware["processor"])
    shares = machines.read_shares(1e12, MINI.parent, processor)
    for share in (shares.pretrain, shares.finetune, shares.encode):
        assert 0 < share <= 1
    assert shares.source.startswith("measured: ")
    assert shares.source.endswith(f" rows of mini on {processor}")
