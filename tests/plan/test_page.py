"""The plan as text: its size, its figures, and the settings that it suggests."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from plans import BOX, find_stage, plan_needs, write_small_board

from retrobench.config import reading
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import folders
from retrobench.plan import advice, costs, formatting, machines, plan
from retrobench.plan.arithmetic import BERT_BASE


@pytest.fixture(autouse=True)
def _this_machine_is_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace this machine by a box without a GPU, so that figures do not depend on where the tests run."""
    monkeypatch.setattr(machines, "measure_this_machine", lambda board=None, thorough=False: BOX)


def plan_text(
    track: str, hardware: str, gpus: int = 1, overrides: tuple[str, ...] = (), board: Path | None = None
) -> str:
    """Return the plan for RetroMAE with single spaces."""
    words = plan(track, "retromae", hardware, gpus, overrides, board).split()
    return " ".join(words)


@pytest.mark.parametrize(
    ("track", "objective"),
    [
        ("msmarco", "dupmae"),
        ("msmarco-dupmae", "dupmae"),
        ("msmarco-bow", "bow-mae"),
        ("beir", "dupmae"),
        ("beir-dupmae", "dupmae"),
        ("beir-bow", "bow-mae"),
    ],
)
@pytest.mark.parametrize(("hardware", "gpus"), [("h200", 1), ("a100", 8), ("v100", 8), ("v100", 1), ("this", 1)])
def test_a_plan_fits_one_screen(track: str, objective: str, hardware: str, gpus: int) -> None:
    lines = plan(track, objective, hardware, gpus).splitlines()
    widths = [len(line) for line in lines]
    assert len(lines) <= 45
    assert max(widths) <= 100
    (total,) = [line for line in lines if line.startswith("total")]
    assert not re.search("nan|inf", total)


def test_msmarco_on_an_h200() -> None:
    text = plan_text("msmarco", "h200")
    # 9.6 / 0.45 hours. A shard of 256 / 8 examples takes 10.4 GiB, and the model with its moments and logits 4.5.
    assert "pretrain 34 G 9.6 h 21 h 15 0.2 1.8" in text
    assert "recipe 2,047 (128 x 16 - 1); here 2,047 (128 x 16 - 1)" in text
    assert "finetune: 174 GiB of 139 in one forward; --set finetune.gradient_cache=65536" in text
    assert "retrobench data fetch wikibook, msmarco-titled" in text
    assert "here box, 32 GiB" in text


def test_with_a_gradient_cache_msmarco_fits_an_h200() -> None:
    text = plan_text("msmarco", "h200", overrides=("finetune.gradient_cache=65536",))
    assert "to change nothing" in text


def test_changed_settings_leave_the_recipe() -> None:
    text = plan_text("msmarco", "h200", overrides=("finetune.batch=32",))
    assert "recipe 2,047 (128 x 16 - 1); here 511 (32 x 16 - 1)" in text
    assert "to change nothing" in text


def test_several_processes_gather_their_passages() -> None:
    text = plan_text("msmarco", "a100", gpus=8)
    assert "here 2,047 (128 x 16 - 1), gathered from 8 processes" in text
    assert "to change nothing" in text
    assert "Never tried" in text


def test_processes_that_cannot_share_the_recipe() -> None:
    text = plan_text("beir-bow", "a100", gpus=4)
    assert "finetune: 4 processes cannot share a batch of 75" in text
    assert "--set finetune.batch=72 --set finetune.shards=4 (another batch)" in text
    few_shards = plan_text("mini", "a100", gpus=2)
    assert "pretrain: 2 processes cannot share 1 shards; --set pretrain.shards=2 (the same batch)" in few_shards


def test_a_v100_has_no_bf16() -> None:
    overrides = ("pretrain.precision=bf16", "adapt.precision=bf16", "finetune.precision=bf16")
    text = plan_text("msmarco", "v100", overrides=overrides)
    assert "--set pretrain.precision=fp16 --set adapt.precision=fp16 --set finetune.precision=fp16" in text
    assert "125 TFLOP/s (fp16, data sheet)" in text


def test_a_processor_computes_no_fp16() -> None:
    track = reading.read_track(folders.locate("msmarco"), "msmarco", ["finetune.precision=fp16"])
    needs = plan_needs("msmarco")
    changes = list(advice.suggest_changes(needs, track, replace(BOX, gpu=False), gpus=1))
    assert "--set finetune.precision=bf16" in changes[0]
    changes = list(advice.suggest_changes(needs, track, replace(BOX, gpu=False, bf16=False), gpus=1))
    assert "--set finetune.precision=fp32" in changes[0]
    assert not any(
        "precision" in change for change in advice.suggest_changes(needs, track, replace(BOX, gpu=True), gpus=1)
    )


def test_a_small_track_needs_no_change_and_no_download(tmp_path: Path) -> None:
    text = plan_text("small", "this", board=write_small_board(tmp_path))
    assert "to change nothing" in text
    assert "downloads none" in text
    assert "recipe 1 (2 - 1); here 1 (2 - 1), in one process" in text


def test_shortages_of_a_small_machine() -> None:
    """Pre-training holds one shard of 8 at a time. Fine-tuning holds all 128 queries, each with 16 passages."""
    machine = replace(BOX, memory=20 * 2.0**30, host=4 * 2.0**30, free=50e9)
    needs = plan_needs("msmarco")
    decoder_layers = 1
    fixed = 18 * BERT_BASE.parameters * (12 + decoder_layers) / 12 + 2.5 * 2**30
    token = 68 * 768 * (12 + decoder_layers)
    pretrain_bytes = fixed + 256 // 8 * 512 * token
    adapt_bytes = fixed + 1024 // 8 * 150 * token
    assert costs.device_bytes(find_stage(needs, "pretrain")) == pytest.approx(pretrain_bytes)
    assert costs.device_bytes(find_stage(needs, "adapt")) == pytest.approx(adapt_bytes)
    assert pretrain_bytes < adapt_bytes < 17 * 2**30
    shortage = advice.summarise_shortage(needs, machine)
    assert shortage == "memory (finetune hard, mine, finetune mined, teach, finetune distilled, test) and disk"
    track = reading.read_track(folders.locate("msmarco"), "msmarco", [])
    changes = "\n".join(advice.suggest_changes(needs, track, machine, gpus=1))
    assert "pretrain:" not in changes
    assert "adapt:" not in changes, "its 8 shards fit one after another"
    assert "teach: 6.9 GiB of 4.0 in main memory" in changes
    assert "of 50 GB free; another --store" in changes


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("msmarco", "retromae", "h20"), ("hardware 'h20'", "'h200'", "Known: a100, h200, this, v100.")),
        (("msmarko", "retromae", "h200"), ("track 'msmarko'", "'msmarco'")),
        (("msmarco", "retromea", "h200"), ("objective 'retromea'", "'retromae'")),
        (("msmarco", "bm25", "h200"), ("bm25", "Name an objective.")),
        (("msmarco", "retromae", "this", 2), ("--gpus is 2", "no GPU", "another --hardware")),
        (("msmarco", "retromae", "h200", 1, ["finetune.btach=3"]), ("finetune key 'finetune.btach'",)),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, str, str], facts: tuple[str, ...]) -> None:
    with pytest.raises(RetrobenchError) as error:
        plan(*arguments)
    message = str(error.value)
    assert "\n" not in message
    for fact in facts:
        assert fact in message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.02, "<0.1 s"), (155, "155 s"), (1320, "22 min"), (34_560, "9.6 h"), (4e6, "1,111 h"), (float("nan"), "?")],
)
def test_time_has_a_readable_unit(seconds: float, text: str) -> None:
    assert formatting.format_time(seconds) == text


def test_figures_have_readable_units() -> None:
    assert formatting.format_count(0) == "-"
    assert formatting.format_count(7.1e8) == "710 M"
    assert formatting.format_count(3.4e10) == "34 G"
    assert formatting.format_bytes(0) == "of unknown size"
    assert formatting.format_bytes(3.8e6) == "3.8 MB"
    assert formatting.format_bytes(2.72e10) == "27 GB"
    assert formatting.format_rate(7.9e14) == "790 TFLOP/s"
    assert formatting.format_rate(4.6e10) == "46 GFLOP/s"
