"""
What a plugin may import from the package's root.

* Objective    the contract: a frozen dataclass with these members is an objective
* Passage      one tokenised document, as `collate` gets it
* Step         what one forward gives: losses and metrics
* Vocabulary   what the tokenizer says of its ids
* __version__  of the installed distribution
* hookimpl     marks the function that returns a plugin's objectives
"""

from retrobench.objective import Objective, Passage, Step, Vocabulary, hookimpl

__all__ = ["Objective", "Passage", "Step", "Vocabulary", "__version__", "hookimpl"]


def __getattr__(name: str) -> str:
    # Reading the distribution's metadata would cost a third of the time in which --help has to answer.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata

    return metadata.version("retrobench")
