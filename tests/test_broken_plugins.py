"""Twelve broken plugins: each is refused in one line that names it and the next step, by `run` and by `check`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from retrobench import cli

SOURCE = '''
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from retrobench import Step, hookimpl
from retrobench_mlm import MaskedLanguageModelling

@dataclass(frozen=True)
class Broken(MaskedLanguageModelling):
    """Masked language modelling with a fault."""

    name: ClassVar[str] = "broken"
{members}

@hookimpl
def retrobench_objectives():
    return [Broken]
'''

STEP = "    def step(self, model, progress, **batch):\n        step = super().step(model, progress, **batch)\n"

# The fault's members of the class, its line by `run`, and a part of its line by `objectives check`.
FAULTS = {
    "wrong return": (
        f"{STEP}        return dict(step.losses)",
        "broken: forward() must give a Step with losses, not a dict. `retrobench objectives check broken` tries it.",
    ),
    "wrap gives None": (
        "    def wrap(self, backbone, context):\n        super().wrap(backbone, context)",
        "broken: wrap() must give a torch module, not None. `retrobench objectives check broken` tries it.",
    ),
    "float metric": (
        f"{STEP}        return Step(step.losses, {{'loss': step.losses['mlm'].item()}})",
        "broken: 'loss' must be a tensor without dimensions, not a float. "
        "`retrobench objectives check broken` tries it.",
    ),
    "NaN": (
        f"{STEP}        return Step({{'mlm': step.losses['mlm'] * float('nan')}}, {{}})",
        "pretrain broken: step 0 is not finite (mlm nan, ",
    ),
    "missing member": ("    couples_batch = None", "Broken.couples_batch must be True or False"),
    "bad setting type": ("    table: dict[str, int] = None", "objective.table must be a field of type bool, int,"),
    "name taken": ('    name: ClassVar[str] = "mlm"', "Objective 'mlm' cannot be used: provided 2 times, by "),
    "syntax error": ("    def step(:", "broken.py failed: SyntaxError: "),
    "import error": (
        "    import nowhere_to_be_seen",
        "broken.py failed: ModuleNotFoundError: No module named 'nowhere",
    ),
    "coupled batch misused": (
        "    couples_batch: ClassVar[bool] = True",
        "broken: couples_batch is True, so forward() must give vectors, not None. "
        "`retrobench objectives check broken` tries it.",
    ),
    "unknown representation": (
        '    representation: ClassVar[str] = "csl"',
        "Broken.representation is 'csl'; known: cls, mean, terms, cls+terms.",
    ),
    "operation that is not deterministic": (
        f"{STEP}        table = model.backbone.word_matrix.clone()\n"
        "        table.put_(batch['masked_ids'], table.flatten()[batch['masked_ids']])\n"
        "        return Step({'mlm': step.losses['mlm'] + 0 * table.sum()}, {})",
        "broken: The model uses put_, for which torch has no deterministic algorithm",
    ),
}

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command line, and returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["retrobench", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        output = capfd.readouterr()
        assert "Traceback" not in output.err
        return int(str(stop.value.code)), output.out, output.err

    return run


def test_there_are_twelve() -> None:
    assert len(FAULTS) == 12


@pytest.mark.parametrize("fault", FAULTS)
def test_run_refuses_it_in_one_line(fault: str, call: Call, tmp_path: Path) -> None:
    members, message = FAULTS[fault]
    Path("broken.py").write_text(SOURCE.format(members=members))
    track = tiny.make(tmp_path)
    name = "mlm" if fault == "name taken" else "broken"
    code, out, err = call(*track.options(name), "--plugin", "broken.py")
    assert code == (1 if fault == "NaN" else 2)
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert "broken" in line
    assert not track.rows()


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_the_fault(fault: str, call: Call) -> None:
    members, _ = FAULTS[fault]
    Path("broken.py").write_text(SOURCE.format(members=members))
    code, out, _ = call("objectives", "check", "broken.py")
    assert code == 1
    heading, line, *_ = out.splitlines()
    assert "broken.py" in heading
    assert "FAULT" in line
