"""
The names that a plugin imports from the package's root.

* Objective    the contract: an objective is a frozen dataclass with these members.
* Passage      a tokenised document, the input of `collate`.
* Step         the losses and metrics of one forward.
* Vocabulary   facts about the tokenizer's ids.
* __version__  the version of the installed distribution.
* hookimpl     the mark of the function that returns a plugin's objectives.
"""

from retrobench.objective import Objective, Passage, Step, Vocabulary, hookimpl

__all__ = ["Objective", "Passage", "Step", "Vocabulary", "__version__", "hookimpl"]


def __getattr__(name: str) -> str:
    # Reading the distribution's metadata takes a third of the time limit of --help.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata

    return metadata.version("retrobench")
