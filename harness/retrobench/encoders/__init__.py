"""
Any published encoder, run by sentence-transformers exactly as the model's own files say.

* load(name, choices)   the Encoder of a folder or hub id: safetensors only, no code of the model's own
* checked(name, ...)    the same as far as files tell, before anything is loaded
* Encoder.write         texts to a folder of `vectors`
* Settings              what holds, each value with where it comes from
* Choices               what the command line says in place of the files
"""

from retrobench.encoders.encoder import Encoder, Kind, checked, load
from retrobench.encoders.files import find
from retrobench.encoders.settings import POOLING, SIMILARITIES, Choices, Setting, Settings

__all__ = ["POOLING", "SIMILARITIES", "Choices", "Encoder", "Kind", "Setting", "Settings", "checked", "find", "load"]
