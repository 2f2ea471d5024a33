"""Further pre-training under the entrant's objective. Only these stages differ between entrants by design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrobench.core import processes
from retrobench.data import TokenisedTexts
from retrobench.errors import RetrobenchError
from retrobench.model import load_backbone, load_masked_lm, load_tokenizer
from retrobench.objective import Context, ModelFolder, Objective, Passage, Vocabulary
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import (
    Batches,
    Coupled,
    UnrepeatableError,
    check_batch,
    check_module,
    check_rows,
    check_step,
    choose_examples,
    discard,
    on_this_machine,
    seeded,
    train,
)

__all__ = ["pretrain"]

ADDED = "added/model.safetensors"  # in a folder of its own, where no loader of the encoder looks


def pretrain(work: Work, section: str, start: Source, corpus: Sequence[Artifact]) -> Artifact:
    """Return the encoder with its head after the track's section `pretrain` or `adapt`, from the weights of `start`.

    `corpus` holds tokenised documents, read in their order. The parameters that an objective adds are kept beside the
    encoder. The objective of the next section may go on with them; as in the released recipes, most begin anew.
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
            added=_read_added(start.path) if section == "adapt" else {},
        )
        couples = objective.couples_batch
        wrapped = check_module(objective.name, objective.wrap(backbone, context), backbone, couples)
        model = Coupled(objective.name, wrapped) if couples else _checked(objective.name, wrapped)
        texts = _Corpus([TokenisedTexts.open(source.path) for source in corpus])
        examples = _Examples(objective, texts, vocabulary, settings.max_length)
        batches = Batches(examples.lengths, settings.batch, settings.bucket, experiment.seed, settings.shards)
        with _naming_the_objective(objective.name):
            cost = train(
                model,
                batches,
                examples.collate,
                settings,
                folder,
                experiment.seed,
                examples.names,
                label,
                couples,
            )
        if processes.leads():
            backbone.lm.save_pretrained(folder)
            load_tokenizer(start.path).save_pretrained(folder)
            _write_added(folder, wrapped, backbone)
            discard(folder)
        return cost

    models = [work.inputs.models[name] for name in _model_names(entrant.settings) if name]
    recipe = {
        "objective": objective.name,
        "settings": _portable(entrant.settings, work),
        "model": asdict(shape) if shape else {},
        **asdict(settings),
        "corpus": [],  # the sources hold its texts, and its name does not matter
        "seed": experiment.seed,
        "processes": processes.size(),
    }
    return work.store.ensure(
        section,
        recipe,
        [start, *corpus, *models],
        make,
        code=entrant.code,
        resumes=True,
        together=True,
        label=f"{label} seed {experiment.seed}",
    )


def _checked(name: str, model: nn.Module) -> nn.Module:
    """Check the result of every forward of a model."""

    def check_output(model: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        check_step(name, output)

    model.register_forward_hook(check_output)
    return model


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


def _model_names(settings: Mapping[str, Any]) -> list[str]:
    return [value for value in settings.values() if isinstance(value, ModelFolder)]


def _portable(settings: Mapping[str, Any], work: Work) -> dict[str, Any]:
    """Return settings with the hashes of models in place of their folders, which differ between machines."""
    portable = dict(settings)
    for key, value in settings.items():
        if isinstance(value, ModelFolder) and value:
            portable[key] = work.inputs.models[value].key
    return portable


def _write_added(folder: Path, model: nn.Module, backbone: nn.Module) -> None:
    """Write the trained parameters that are not the backbone's, if there are any."""
    own = {id(parameter) for parameter in backbone.parameters()}
    added = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            added[name] = parameter.detach().cpu().contiguous()
    if added:
        (folder / ADDED).parent.mkdir()
        save_file(added, folder / ADDED)


def _read_added(folder: Path) -> dict[str, Tensor]:
    """Read the parameters that the earlier section's objective added to the backbone."""
    if not (folder / ADDED).exists():
        return {}
    return load_file(folder / ADDED)


class _Examples:
    """The examples of an objective: documents, each as often as it says."""

    def __init__(self, objective: Objective, texts: _Corpus, vocabulary: Vocabulary, max_length: int) -> None:
        """RetrobenchError where the objective gives examples that are no documents, or none."""
        self.objective = objective
        self.texts = texts
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.documents: np.ndarray | None = None  # [E]; None for each document once
        lengths = texts.lengths
        chosen = choose_examples(objective, texts.lengths, max_length)
        if chosen is not None:
            self.documents, lengths = chosen
        self.lengths = np.minimum(lengths, max_length)  # [E]
        self.rows_per_example: float | None = None

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the batch of some examples."""
        passages = [self.texts[row] for row in self._documents(rows)]
        batch = self.objective.collate(passages, self.vocabulary, self.max_length, generator)
        check_batch(self.objective.name, batch, self.max_length)
        rows_per_example = len(batch["attention_mask"]) / len(passages)
        if self.rows_per_example is None:
            self.rows_per_example = rows_per_example
        check_rows(self.objective.name, self.rows_per_example, rows_per_example)
        return batch

    def names(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the documents of some examples."""
        return self.texts.names(self._documents(rows))

    def _documents(self, rows: np.ndarray) -> np.ndarray:
        if self.documents is None:
            return rows
        documents: np.ndarray = self.documents[rows]
        return documents


class _Corpus:
    """Several tokenised collections as one."""

    def __init__(self, collections: list[TokenisedTexts]) -> None:
        self.collections = collections
        self.lengths = np.concatenate([texts.lengths for texts in collections])
        sizes = [len(texts) for texts in collections]
        self.ends = np.cumsum(sizes)

    def _locate(self, row: int) -> tuple[TokenisedTexts, int]:
        """Return the collection of a row and the position in it."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        texts = self.collections[number]
        first = int(self.ends[number]) - len(texts)
        return texts, row - first

    def __getitem__(self, row: int) -> Passage:
        texts, position = self._locate(row)
        return texts[position]

    def names(self, rows: np.ndarray) -> list[str]:
        names = []
        for row in rows:
            texts, position = self._locate(row)
            names.append(texts.ids[position])
        return names
