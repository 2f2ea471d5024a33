"""What a plan makes of a gradient cache, and of several GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_plan import H200, box_for, needs, stage, training

from retrobench.plan import costs, plan
from retrobench.plan.work import Kind, Stage, Work


def test_a_gradient_cache_takes_the_memory_of_its_tokens() -> None:
    large, card = training("finetune", 64), box_for(5.5)
    assert costs.fit(large, card).examples == 5 and costs.cache(large, card) == 4096
    assert large.batch is not None
    cached = replace(large.batch, cached=4096, texts=3)
    assert cached.fixed - large.batch.fixed == 68 * 10 * 4096 and cached.each == 8 * 10 * 3
    assert costs.cache(training("pretrain", 64), card) == 0 == costs.cache(large, box_for(0.5))
    flat = " ".join(plan("msmarco", "retromae", "h200", 1, ["finetune.gradient_cache=65536"]).split())
    assert "to change nothing: all of it fits" in flat
    asked = ((), ("finetune.gradient_cache=65536",))
    plain, longer = (stage(needs("msmarco", *more), "finetune mined") for more in asked)
    assert longer.works[0].flops == pytest.approx(plain.works[0].flops * 4 / 3)


def test_several_gpus_share_trainings_encoding_and_search() -> None:
    kinds: tuple[Kind, ...] = ("tokenise", "pretrain", "finetune", "encode", "teach", "search")
    stages = {kind: Stage("", (Work(kind, 1e9, 1e18),)) for kind in kinds}
    alone, four = ({kind: costs.seconds(of, H200, gpus) for kind, of in stages.items()} for gpus in (1, 4))
    shared = {"pretrain", "finetune", "encode", "search"}
    for kind in kinds:
        assert four[kind] == pytest.approx([part / (4 if kind in shared else 1) for part in alone[kind]])
    assert alone["teach"] == alone["encode"]
