"""
The names that a user and a plugin import from the package's root.

* Context       the training that `wrap` makes a module for.
* ModelFolder   the type of a setting that names another model.
* Objective     the contract: an objective is a frozen dataclass with these members.
* Passage       a tokenised document, the input of `collate`.
* Step          the losses and metrics of one forward.
* Vocabulary    facts about the tokenizer's ids.
* __version__   the version of the installed distribution.
* hookimpl      the mark of the function that returns a plugin's objectives.
* load_encoder  load an encoder that `run` trained, to encode and search as its row was scored.
"""

import typing

from retrobench.objective import Context, ModelFolder, Objective, Passage, Step, Vocabulary, hookimpl

if typing.TYPE_CHECKING:
    from retrobench.retrieval.trained import load_encoder

__all__ = [
    "Context",
    "ModelFolder",
    "Objective",
    "Passage",
    "Step",
    "Vocabulary",
    "__version__",
    "hookimpl",
    "load_encoder",
]


def __getattr__(name: str) -> typing.Any:
    # Either look-up takes a third and more of the time limit of --help.
    if name == "__version__":
        from importlib import metadata

        return metadata.version("retrobench")
    if name == "load_encoder":
        from retrobench.retrieval.trained import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
