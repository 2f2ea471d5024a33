"""
Any published encoder, run by sentence-transformers exactly as the model's own files say.

* load_published           load a folder or hub id: safetensors only, no code of the model's own
* check_published          check its files before anything is loaded
* PublishedEncoder.write   embed texts into a folder of `vectors`
* Settings                 the settings of an encoder, each with its source
* Choices                  the command line's replacements for them
"""

from retrobench.retrieval.encoders.encoder import TITLES, Kind, PublishedEncoder, check_published, load_published
from retrobench.retrieval.encoders.files import MODEL_FILES, check_weights, find, read_json
from retrobench.retrieval.encoders.settings import POOLING, SIMILARITIES, Choices, Setting, Settings

__all__ = [
    "MODEL_FILES",
    "POOLING",
    "SIMILARITIES",
    "TITLES",
    "Choices",
    "Kind",
    "PublishedEncoder",
    "Setting",
    "Settings",
    "check_published",
    "check_weights",
    "find",
    "load_published",
    "read_json",
]
