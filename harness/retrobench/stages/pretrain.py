"""Further pre-training under the entrant's objective. Only these stages differ between entrants by design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retrobench.config import Model, Pretrain
from retrobench.core import processes, say
from retrobench.data import TokenisedTexts
from retrobench.errors import RetrobenchError
from retrobench.model import Backbone, load_backbone, load_masked_lm, load_tokenizer
from retrobench.objective import Context, ModelFolder
from retrobench.stages.added import read_added, write_added
from retrobench.stages.examples import Corpus, PretrainingExamples
from retrobench.stages.probe import Probe, remove_probe
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import (
    Batches,
    UnrepeatableError,
    Watch,
    check_module,
    on_this_machine,
    seeded,
    train,
    trainable,
)

__all__ = ["pretrain"]


def pretrain(
    work: Work, section: str, start: Source, corpus: Sequence[Artifact], probe: Sequence[TokenisedCollection] = ()
) -> Artifact:
    """Return the encoder with its head after the track's section `pretrain` or `adapt`, from the weights of `start`.

    `corpus` holds tokenised documents, read in their order. The parameters that an objective adds are kept beside the
    encoder. The objective of the next section may go on with them; as in the released recipes, most begin anew.
    `probe` holds the collections of the section's probes, for training and validation. They change no file but the log.
    """
    experiment = work.experiment
    entrant = experiment.neural.at(section)
    settings = on_this_machine(experiment.pretraining[section])
    objective = entrant.objective
    shape = None
    if section == "pretrain" and experiment.track.model.layers:
        shape = experiment.track.model
    label = f"{section} {experiment.neural.name}"

    def make(folder: Path) -> dict[str, float]:
        torch.manual_seed(seeded(experiment.seed))
        backbone, vocabulary = load_backbone(start.path, shape, trains=True)
        context = Context(
            vocabulary=vocabulary,
            max_length=settings.max_length,
            load=partial(_load_model, work),
            stage="adapt" if section == "adapt" else "pretrain",
            added=read_added(start.path) if section == "adapt" else {},
        )
        couples = objective.couples_batch
        wrapped = check_module(objective.name, objective.wrap(backbone, context), backbone, couples)
        model = trainable(objective, wrapped)
        texts = Corpus([TokenisedTexts.open(source.path) for source in corpus])
        examples = PretrainingExamples(objective, texts, vocabulary, settings.max_length)
        batches = Batches(examples.lengths, settings.batch, settings.bucket, experiment.seed, settings.shards)
        seed, names = experiment.seed, examples.names
        watch = _watch(work, section, backbone, folder, probe)
        with _naming_the_objective(objective.name):
            cost = train(model, batches, examples.collate, settings, folder, seed, names, label, couples, watch)
        if processes.leads():
            backbone.lm.save_pretrained(folder)
            load_tokenizer(start.path).save_pretrained(folder)
            write_added(folder, wrapped, backbone)
            remove_probe(folder)
        return cost

    pretrained = work.store.ensure(
        section,
        _recipe(work, section, settings, shape),
        [start, *corpus, *_models(entrant.settings, work)],
        make,
        code=entrant.code,
        resumes=True,
        together=True,
        keeps=True,
        label=f"{label} seed {experiment.seed}",
    )
    if pretrained.cached and probe:
        say(f"{label} seed {experiment.seed}: cached, so nothing is probed; --fresh trains and probes again")
    return pretrained


def _watch(
    work: Work, section: str, backbone: Backbone, folder: Path, collections: Sequence[TokenisedCollection]
) -> Watch:
    """Return the corridor of a section, and its probes if there are collections for them."""
    watch = Watch(corridor=work.inputs.corridors.get(section))
    if not collections:
        return watch
    training, validation = collections
    settings = work.experiment.pretraining[section].probe
    probe = Probe(work, training, validation, folder, settings.probe_steps)
    return replace(watch, probe=partial(probe, backbone), probe_every=settings.probe_every)


def _recipe(work: Work, section: str, settings: Pretrain, shape: Model | None) -> dict[str, Any]:
    """Return everything that decides the weights, beside the sources and the plugin's code."""
    entrant = work.experiment.neural.at(section)
    training = asdict(settings)
    del training["probe"]  # which changes nothing
    return {
        "objective": entrant.objective.name,
        "settings": _portable(entrant.settings, work),
        "model": asdict(shape) if shape else {},
        **training,
        "corpus": [],  # the sources hold its texts, and its name does not matter
        "seed": work.experiment.seed,
        "processes": processes.size(),
    }


@contextmanager
def _naming_the_objective(name: str) -> Iterator[None]:
    """Name the objective where torch refuses one of its operations."""
    try:
        yield
    except UnrepeatableError as error:
        raise RetrobenchError(f"{name}: {error} `retrobench objectives check {name}` tries it.") from error


def _load_model(work: Work, name: str) -> nn.Module:
    """Load the model that a setting of the type ModelFolder names."""
    if name:
        return load_masked_lm(work.inputs.models[name].path)
    assert work.inputs.base is not None
    return load_masked_lm(work.inputs.base.model.path)


def _models(settings: Mapping[str, Any], work: Work) -> list[Source]:
    """Return the models that settings of the type ModelFolder name."""
    names = [value for value in settings.values() if isinstance(value, ModelFolder) and value]
    return [work.inputs.models[name] for name in names]


def _portable(settings: Mapping[str, Any], work: Work) -> dict[str, Any]:
    """Return settings with the hashes of models in place of their folders, which differ between machines."""
    portable = dict(settings)
    for key, value in settings.items():
        if isinstance(value, ModelFolder) and value:
            portable[key] = work.inputs.models[value].key
    return portable
