"""Find the settings of a track that do not fit a machine, and suggest others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from retrobench.config import Track
from retrobench.plan import arithmetic, costs
from retrobench.plan.formatting import format_bytes, format_number
from retrobench.plan.machines import GIB, Machine
from retrobench.plan.needs import ExperimentNeeds, StageNeeds

__all__ = ["checkpoint_bytes", "describe_negatives", "disk_bytes", "suggest_changes", "summarise_shortage"]

_TRAINING_CHECKPOINTS = 2  # in a training's folder: the newest, and the one before or the next
_JSON_BYTES = 4.6  # per token, in a line of JSON


def describe_negatives(needs: ExperimentNeeds, recipe: Track, machine: Machine, gpus: int) -> str:
    """Count a query's negative passages: in the track's file, and in the batch that fits the machine."""
    hard = 0
    if recipe.finetune.hard or recipe.mine.depth:
        hard = recipe.finetune.negatives
    published = _count_negatives(recipe.finetune.batch, hard)
    stage = _round_with_most_negatives(needs)
    batch = costs.fit_step(stage, machine, gpus).batch
    if stage.step is not None and costs.find_gradient_cache(stage, machine, gpus):
        batch = stage.step.batch
    local = _count_negatives(batch, stage.negatives)
    if gpus == 1:
        return f"per query: recipe {published}; here {local}, in one process"
    return f"per query: recipe {published}; here {local}, gathered from {gpus} processes"


def _round_with_most_negatives(needs: ExperimentNeeds) -> StageNeeds:
    """Return the first fine-tuning stage with the most hard negatives per query."""
    rounds = [stage for stage in needs.stages if stage.section == "finetune"]
    return max(rounds, key=lambda stage: stage.negatives)


def _count_negatives(queries: int, hard: int) -> str:
    if not queries:
        return "none: not one query fits"
    if not hard:
        return f"{queries - 1:,} ({queries} - 1)"
    passages = 1 + hard
    negatives = queries * passages - 1
    return f"{negatives:,} ({queries} x {passages} - 1)"


def suggest_changes(needs: ExperimentNeeds, track: Track, machine: Machine, gpus: int) -> Iterator[str]:
    """Yield a line for each setting that has to change."""
    largest_stages = _largest_trainings(needs)
    yield from _suggest_precision(largest_stages, track, machine)
    for stage in largest_stages.values():
        yield from _suggest_batch(stage, machine, gpus)
    stage = max(needs.stages, key=lambda stage: stage.host)
    if not _host_holds(stage, machine):
        memory = f"{_share_of_memory(stage.host, machine.host)} in main memory"
        yield f"{stage.name}: {memory}, for ids and their look-up tables; only a smaller collection helps"
    if _lacks_disk(needs, machine):
        needed = format_bytes(disk_bytes(needs))
        free = format_bytes(machine.free)
        yield f"disk: {needed}, of {free} free; another --store on a larger one"


def _suggest_precision(sections: Iterable[str], track: Track, machine: Machine) -> Iterator[str]:
    """Yield a line for the precisions that the machine does not compute natively."""
    settings = []
    for section in sections:
        better = _better_precision(getattr(track, section).precision, machine)
        if better is not None:
            settings.append(f"--set {section}.precision={better}")
    if settings:
        yield f"a precision is slow or unknown in this hardware: {' '.join(settings)}"


def _better_precision(precision: str, machine: Machine) -> str | None:
    """Return the precision to compute in instead; None where the machine computes the given one."""
    if precision == "bf16" and not machine.bf16:
        return "fp16" if machine.gpu else "fp32"
    if precision == "fp16" and not machine.gpu:
        return "bf16" if machine.bf16 else "fp32"
    return None


def _share_of_memory(needed: float, memory: float) -> str:
    """Return both sizes as text, in GiB."""
    return f"{format_number(needed / GIB)} GiB of {format_number(memory / GIB)}"


def _largest_trainings(needs: ExperimentNeeds) -> dict[str, StageNeeds]:
    """Return section -> its stage with the largest need of device memory, the last of equal ones."""
    largest: dict[str, StageNeeds] = {}
    for stage in needs.trainings:
        earlier = largest.get(stage.section)
        if earlier is None or costs.device_bytes(stage) >= costs.device_bytes(earlier):
            largest[stage.section] = stage
    return largest


def _suggest_batch(stage: StageNeeds, machine: Machine, gpus: int) -> Iterator[str]:
    step = stage.step
    assert step is not None
    section = stage.section
    fit = costs.fit_step(stage, machine, gpus)
    gradient_cache = costs.find_gradient_cache(stage, machine, gpus)
    memory = _share_of_memory(costs.device_bytes(stage, gpus), machine.memory)
    if step.batch % gpus:
        batch = max(gpus, step.batch - step.batch % gpus)
        settings = f"--set {section}.batch={batch} --set {section}.shards={gpus}"
        yield f"{section}: {gpus} processes cannot share a batch of {step.batch}; {settings} (another batch)"
        return
    if not fit.batch and not gradient_cache:
        length = "passage_length" if section == "finetune" else "max_length"
        yield f"{section}: {memory}, and not one example fits; a smaller {section}.{length} or model.base"
        return
    if fit == costs.Fit(step.batch, step.shards):
        return
    changes = []
    if fit.batch < step.batch and gradient_cache:
        changes.append(f"--set {section}.gradient_cache={gradient_cache}")
        if step.shards % gpus:
            changes.append(f"--set {section}.shards={gpus}")
        yield f"{section}: {memory} in one forward; {' '.join(changes)} (the same batch, 4/3 of the time)"
        return
    if fit.batch != step.batch:
        changes.append(f"--set {section}.batch={fit.batch}")
    if fit.shards != step.shards:
        changes.append(f"--set {section}.shards={fit.shards}")
    reason = f"{memory} in one forward"
    effect = "the same batch"
    if step.shards % gpus:
        reason = f"{gpus} processes cannot share {step.shards} shards"
    if fit.batch < step.batch:
        effect = "fewer negatives"
    yield f"{section}: {reason}; {' '.join(changes)} ({effect})"


def summarise_shortage(needs: ExperimentNeeds, machine: Machine) -> str:
    """Name the memory and disk that a machine lacks for the unchanged track; empty if it lacks none."""
    stages = [stage.name for stage in needs.stages if not _fits(stage, machine)]
    shortages = []
    if stages:
        shortages.append(f"memory ({', '.join(stages)})")
    if _lacks_disk(needs, machine):
        shortages.append("disk")
    return " and ".join(shortages)


def _fits(stage: StageNeeds, machine: Machine) -> bool:
    if stage.step is not None and costs.fit_step(stage, machine) != costs.Fit(stage.step.batch, stage.step.shards):
        return False
    return _host_holds(stage, machine)


def _host_holds(stage: StageNeeds, machine: Machine) -> bool:
    """Return whether main memory holds the stage; without a GPU, the model of a stage without training too."""
    if not machine.host:
        return True
    needed = stage.host
    if not machine.gpu and stage.step is None:
        needed += stage.device
    return needed <= machine.host


def _lacks_disk(needs: ExperimentNeeds, machine: Machine) -> bool:
    return bool(machine.free) and disk_bytes(needs) > machine.free


def checkpoint_bytes(needs: ExperimentNeeds) -> float:
    """Return the bytes of checkpoints, which exist only while a stage trains, without those that are kept."""
    return float(_TRAINING_CHECKPOINTS * arithmetic.CHECKPOINT * needs.shape.parameters)


def disk_bytes(needs: ExperimentNeeds) -> float:
    """Return all bytes on disk: the store with its checkpoints, downloads, and the collections built from them."""
    text_bytes = {}  # of each corpus once
    for collection in needs.collections:
        if collection.to_build:
            text_bytes[collection.corpus] = collection.documents * collection.tokens * _JSON_BYTES
    texts = sum(text_bytes.values())
    downloads = sum(needs.missing.values())
    stored = sum(stage.disk for stage in needs.stages)
    return stored + checkpoint_bytes(needs) + downloads + texts
