"""What does not fit on a machine, and the setting that changes it."""

from __future__ import annotations

from collections.abc import Iterator

from retrobench.config import Track
from retrobench.plan import costs
from retrobench.plan.machines import GIB, Machine
from retrobench.plan.words import size, small
from retrobench.plan.work import Needs, Stage

__all__ = ["changes", "negatives", "passing", "short_of", "space"]

_CHECKPOINTS = 24  # bytes per parameter: weights and two moments in 32 bits, the new ones beside the old
_JSON = 4.6  # bytes of a line of JSON per token


def negatives(needs: Needs, recipe: Track, machine: Machine, gpus: int) -> str:
    """How many passages a query is held against: in the track's file, and in one process here."""
    stage = max((of for of in needs.stages if of.section == "finetune"), key=lambda of: of.negatives)
    hard = recipe.finetune.negatives if recipe.finetune.hard or recipe.mine.depth else 0
    published = _rivals(recipe.finetune.batch, hard)
    found = costs.fit(stage, machine, gpus)
    examples = found.wanted if costs.cache(stage, machine, gpus) else found.examples
    if gpus == 1:
        return f"per query: recipe {published}; here {_rivals(examples, stage.negatives)}, in one process"
    here = _rivals(gpus * examples, stage.negatives)
    return f"per query: recipe {published}; here {here}, those of {gpus} processes gathered"


def _rivals(queries: int, hard: int) -> str:
    product = f"{queries} x {1 + hard}" if hard else str(queries)
    return f"{queries * (1 + hard) - 1:,} ({product} - 1)" if queries else "none: not one query fits"


def changes(needs: Needs, track: Track, machine: Machine, gpus: int) -> Iterator[str]:
    """A line for each thing that must be set otherwise."""
    trained: dict[str, Stage] = {}  # section -> the stage of it that needs most
    for stage in (of for of in needs.stages if of.batch is not None):
        if costs.need(stage) >= costs.need(trained.get(stage.section, stage)):
            trained[stage.section] = stage
    if not machine.bf16:
        fixed = [f"--set {name}.precision=fp32" for name in trained if getattr(track, name).precision == "bf16"]
        if fixed:
            yield f"bf16 is slow or unknown in this hardware: {' '.join(fixed)}"
    for section, stage in trained.items():
        yield from _change(section, stage, machine, gpus)
    most = max(needs.stages, key=lambda of: of.host)
    if not _holds(most, machine):
        held = f"{small(most.host / GIB)} GiB of {small(machine.host / GIB)} in main memory"
        yield f"{most.name}: {held}, for ids and what is known of them; no setting but a smaller collection"
    if machine.free and space(needs) > machine.free:
        yield f"disk: {size(space(needs))}, of {size(machine.free)} free; another --store on a larger one"


def _change(section: str, stage: Stage, machine: Machine, gpus: int) -> Iterator[str]:
    assert stage.batch is not None
    found, wanted = costs.fit(stage, machine, gpus), stage.batch
    held = f"{small(costs.need(stage, gpus) / GIB)} GiB of {small(machine.memory / GIB)}"
    if not found.examples and not costs.cache(stage, machine, gpus):
        length = "passage_length" if section == "finetune" else "max_length"
        yield f"{section}: {held}, and not one example fits; a smaller {section}.{length} or model.base"
    elif (found.examples, found.accumulation) != (wanted.examples, wanted.accumulation):
        why = f"{held} in one forward" if found.examples < found.wanted else f"shared by {gpus} processes"
        tokens = costs.cache(stage, machine, gpus) if found.examples < found.wanted else 0
        if tokens:
            batch = f" --set {section}.batch={found.wanted}" if gpus > 1 else ""
            yield f"{section}: {why};{batch} --set {section}.gradient_cache={tokens} (the same step, 4/3 of the time)"
            return
        how = f"--set {section}.batch={found.examples}"
        if found.accumulation != wanted.accumulation:
            how += f" --set {section}.accumulation={found.accumulation}"
        fewer = section == "finetune" and found.examples < found.wanted
        same = "fewer negatives" if fewer else "the same step"
        yield f"{section}: {why}; {how} ({same})"


def short_of(needs: Needs, machine: Machine) -> str:
    """What a machine has too little of for the track as it is; empty where it has all."""
    trained = [stage for stage in needs.stages if stage.batch is not None]
    lacking = [
        stage.name
        for stage in needs.stages
        if (stage in trained and costs.fit(stage, machine).examples < costs.fit(stage, machine).wanted)
        or not _holds(stage, machine)
    ]
    found = [f"memory ({', '.join(lacking)})"] if lacking else []
    found += ["disk"] if machine.free and space(needs) > machine.free else []
    return " and ".join(found)


def _holds(stage: Stage, machine: Machine) -> bool:
    beside = 0.0 if machine.gpu or stage.batch is not None else stage.device
    return not machine.host or stage.host + beside <= machine.host


def passing(needs: Needs) -> float:
    """Bytes of checkpoints, which are there only while a stage trains."""
    return float(_CHECKPOINTS * needs.shape.parameters)


def space(needs: Needs) -> float:
    """Bytes on disk in all: the store with its checkpoints, downloads, and the collections made of them."""
    made = {found.corpus: found for found in needs.collections if found.made}
    texts = sum(found.documents * found.tokens * _JSON for found in made.values())
    stored = sum(stage.disk for stage in needs.stages)
    return stored + passing(needs) + sum(needs.missing.values()) + texts
