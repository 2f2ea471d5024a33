"""A running experiment on a few files, for tests of single stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from retrobench.config import Entrant, Experiment, Finetune, Model, Pretrain, Track
from retrobench.config.track import Evaluate
from retrobench.data import open_collections
from retrobench.objective import Objective
from retrobench.stages import Base, Inputs, TokenisedCollection, Work, tokenise_documents, tokenise_queries
from retrobench.store import Artifact, Source, Store
from retrobench_bert import Bert

BUDGET: dict[str, Any] = {"steps": 1, "batch": 2, "learning_rate": 1e-3, "precision": "fp32"}


def experiment(read_by: str = "cls", finetune: Finetune | None = None, **track: Any) -> Experiment:
    """Return an experiment with BERT, which is never trained."""
    sections = {
        "pretrain": Pretrain(**BUDGET),
        "finetune": finetune or Finetune(**BUDGET, queries="unused"),
        "evaluate": Evaluate(("unused",)),
        **track,
    }
    entrant = Entrant("tiny", cast(Objective, Bert()), read_by)
    return Experiment(Track("tiny", Model("unused"), **sections), entrant, 0)


def work(store: Path, *dataset_ids: str, base: Path | None = None, on: Experiment | None = None) -> Work:
    """Return a work on datasets, with the tokenizer and model in the folder `base`."""
    opened_base = None
    if base is not None:
        model = Source("base", "0" * 20, base)
        tokenizer = Source("tokenizer", "0" * 20, base)
        opened_base = Base("tiny", "tiny@00000000", "", model, tokenizer, positions=64, width=16)
    inputs = Inputs(open_collections(dataset_ids), opened_base, None)
    return Work(on or experiment(), inputs, Store(store))


def training_texts(work: Work, dataset_id: str, titles: Any = True) -> TokenisedCollection:
    """Return the tokenised training texts of a dataset."""
    collection = work.inputs.collections[dataset_id]
    documents = tokenise_documents(work, collection.corpus, titles)
    return TokenisedCollection(collection, documents, tokenise_queries(work, collection))


def artifact(stage: str, folder: Path) -> Artifact:
    """Return a folder as an artifact."""
    return Artifact(stage, "0" * 20, folder, True, {})
