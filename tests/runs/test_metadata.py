"""The metadata beside a run file have the facts of its row."""

from __future__ import annotations

from pathlib import Path

import tiny
import yaml

from retrobench.runs.sweep import Request, sweep


def test_metadata_beside_a_run_have_the_facts_of_its_row(tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    mlm, bm25 = sweep(Request(["mlm", "bm25"], str(track.track), (0,), (), track.store, track.boards)).rows
    test, train = f"{track.data}:test", f"{track.data}:train"
    metadata = yaml.safe_load((track.store / "search" / mlm.run / "ir_metadata.yaml").read_text())
    components = ["platform", "research goal", "implementation", "method", "actor", "data"]
    assert list(metadata) == ["tag", *components], "the components of https://www.ir-metadata.org"
    platform = metadata["platform"]
    assert platform["hardware"]["cpu"]["model"] == mlm.hardware["processor"]
    assert f"torch=={mlm.libraries['torch']}" in platform["software"]["libraries"]["python"]
    assert metadata["implementation"]["source"]["commit"] == mlm.commit
    (method,) = metadata["method"]["retrieval"]
    assert (method["objective"], method["settings"], method["seed"]) == (mlm.objective, mlm.settings, mlm.seed)
    assert (method["representation"], method["encoder"]) == (mlm.representation, mlm.encoder)
    collection = metadata["data"]["test collection"]
    assert (collection["name"], collection["corpus"]) == (test, mlm.facts[test]["corpus"])
    assert metadata["data"]["training data"] == [{"name": train, "purpose": "pre-training, fine-tuning"}]
    metadata = yaml.safe_load((track.store / "search" / bm25.run / "ir_metadata.yaml").read_text())
    assert metadata["method"]["retrieval"][0]["k1"] == bm25.settings["k1"]
    assert metadata["data"]["training data"] == []
