"""
What a plugin may import from the package's root.

* Objective    the contract: a frozen dataclass with these members is an objective
* Passage      one tokenised document, as `collate` gets it
* Step         what one forward gives: losses and metrics
* Vocabulary   what the tokenizer says of its ids
* __version__  of the installed distribution
* hookimpl     marks the function that returns a plugin's objectives
"""

from importlib import metadata

from retrobench.objective import Objective, Passage, Step, Vocabulary, hookimpl

__all__ = ["Objective", "Passage", "Step", "Vocabulary", "__version__", "hookimpl"]

__version__ = metadata.version("retrobench")
