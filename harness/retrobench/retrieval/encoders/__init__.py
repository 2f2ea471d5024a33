"""
Any published encoder, run by sentence-transformers exactly as the model's own files say.

* load_published(name, choices)   a folder or hub id, loaded: safetensors only, no code of the model's own
* check_published(name, ...)    the same as far as files tell, before anything is loaded
* PublishedEncoder.write         texts to a folder of `vectors`
* Settings              what holds, each value with where it comes from
* Choices               what the command line says in place of the files
"""

from retrobench.retrieval.encoders.encoder import Kind, PublishedEncoder, check_published, load_published
from retrobench.retrieval.encoders.files import find
from retrobench.retrieval.encoders.settings import POOLING, SIMILARITIES, Choices, Setting, Settings

__all__ = [
    "POOLING",
    "SIMILARITIES",
    "Choices",
    "Kind",
    "PublishedEncoder",
    "Setting",
    "Settings",
    "check_published",
    "find",
    "load_published",
]
