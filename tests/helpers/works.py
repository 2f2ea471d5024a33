"""An experiment at work on a few files, for tests of single stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from retrobench.config import Entrant, Experiment, Finetune, Model, Pretrain, Track
from retrobench.config.track import Evaluate
from retrobench.data import open_collections
from retrobench.objective import Objective
from retrobench.stages import Base, Inputs, TrainingTexts, Work, tokenise_documents, tokenise_queries
from retrobench.store import Artifact, Source, Store
from retrobench_bert import Bert

BUDGET: dict[str, Any] = {"steps": 1, "batch": 2, "learning_rate": 1e-3, "precision": "fp32"}


def experiment(read_by: str = "cls", finetune: Finetune | None = None, **track: Any) -> Experiment:
    """BERT under a track that is never trained."""
    tuned = finetune or Finetune(**BUDGET, queries="unused")
    parts = {"pretrain": Pretrain(**BUDGET), "finetune": tuned, "evaluate": Evaluate(("unused",)), **track}
    return Experiment(Track("tiny", Model("unused"), **parts), Entrant("tiny", cast(Objective, Bert()), read_by), 0)


def work(store: Path, *dataset_ids: str, base: Path | None = None, on: Experiment | None = None) -> Work:
    """Work on datasets, with the tokenizer and model in the folder `base`."""
    opened = None
    if base is not None:
        opened = Base("tiny", Source("base", "0" * 20, base), Source("tokenizer", "0" * 20, base), 64, 16)
    return Work(on or experiment(), Inputs(open_collections(dataset_ids), opened, None), Store(store))


def training_texts(work: Work, dataset_id: str, titles: Any = True) -> TrainingTexts:
    """The training texts of a dataset, tokenised."""
    collection = work.inputs.collections[dataset_id]
    documents = tokenise_documents(work, collection.corpus, titles)
    return TrainingTexts(collection, documents, tokenise_queries(work, collection))


def artifact(stage: str, folder: Path) -> Artifact:
    """A folder as if the store had made it."""
    return Artifact(stage, "0" * 20, folder, True, {})
