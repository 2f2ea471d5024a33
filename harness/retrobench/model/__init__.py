"""
Neural networks. Plugins import from here, and from `retrobench`.

* backbones   a masked language model with its parts under one set of names
* loading     models and tokenizers from a folder
* masking     whole-word masks and corruption
* sampling    the decoder's masks on a CPU
* heads       losses over the vocabulary
* decoder     RetroMAE's enhanced decoder
* encoder     representations: cls, mean, terms, cls+terms
* layers      an encoder's layers, computed faster for reading
* kernels     compiled loops for the processor
* internals   private parts of torch and transformers, and what is done without them
"""

from retrobench.model.backbones import FAMILIES, Backbone, Pretraining
from retrobench.model.decoder import EnhancedDecoder
from retrobench.model.encoder import Encoder, Vectors, keep_largest
from retrobench.model.heads import bag_loss, bag_of_words, pooled_logits, token_loss
from retrobench.model.layers import first_only, halved
from retrobench.model.loading import load_backbone, load_encoder, load_tokenizer
from retrobench.model.masking import decoder_visibility, masked_batch, pack, special_ids

__all__ = [
    "FAMILIES",
    "Backbone",
    "Encoder",
    "EnhancedDecoder",
    "Pretraining",
    "Vectors",
    "bag_loss",
    "bag_of_words",
    "decoder_visibility",
    "first_only",
    "halved",
    "keep_largest",
    "load_backbone",
    "load_encoder",
    "load_tokenizer",
    "masked_batch",
    "pack",
    "pooled_logits",
    "special_ids",
    "token_loss",
]
