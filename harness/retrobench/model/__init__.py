"""
Neural networks. Plugins may import from this package, and from `retrobench`.

* backbones     a masked language model whose parts have the same names in every family, and one that draws words
* pretraining   a backbone with the modules that an objective adds
* added_layers  transformer layers that an objective adds, new or copied, and a head
* condensing    the forward that Condenser and coCondenser share
* loading       models and tokenizers from a folder
* masking       whole-word masks and corruption
* sampling      the decoder's masks on a CPU
* spans         spans of a document, cut at the ends of sentences
* heads         losses over the vocabulary, and draws from it
* decoder       RetroMAE's enhanced decoder
* encoder       the representations cls, mean, terms and cls+terms
* layers        faster forwards of an encoder's layers, for reading
* kernels       compiled loops for the processor
* precision     the precision of matrix products
* internals     private parts of torch and transformers, with their fallbacks
"""

from retrobench.model.added_layers import Layers, WordHead
from retrobench.model.backbones import FAMILIES, Backbone, WordGenerator
from retrobench.model.condensing import condense, early_layer
from retrobench.model.decoder import EnhancedDecoder, decoding_batch
from retrobench.model.encoder import Embeddings, Encoder, keep_largest, mean_pooled
from retrobench.model.heads import bag_loss, bag_of_words, draw_words, pooled_logits, token_loss
from retrobench.model.internals import has_int8_product, int8_product
from retrobench.model.layers import bfloat16_layers, first_token_only
from retrobench.model.loading import load_backbone, load_encoder, load_masked_lm, load_tokenizer, load_with_head
from retrobench.model.masking import (
    decoder_visibility,
    drawn_on_cpu,
    fill_in,
    hide,
    masked_batch,
    pack,
    select_tokens,
    select_words,
    special_ids,
)
from retrobench.model.precision import autocast
from retrobench.model.pretraining import Pretraining
from retrobench.model.spans import Spans, cut_spans, span_examples

__all__ = [
    "FAMILIES",
    "Backbone",
    "Embeddings",
    "Encoder",
    "EnhancedDecoder",
    "Layers",
    "Pretraining",
    "Spans",
    "WordGenerator",
    "WordHead",
    "autocast",
    "bag_loss",
    "bag_of_words",
    "bfloat16_layers",
    "condense",
    "cut_spans",
    "decoder_visibility",
    "decoding_batch",
    "draw_words",
    "drawn_on_cpu",
    "early_layer",
    "fill_in",
    "first_token_only",
    "has_int8_product",
    "hide",
    "int8_product",
    "keep_largest",
    "load_backbone",
    "load_encoder",
    "load_masked_lm",
    "load_tokenizer",
    "load_with_head",
    "masked_batch",
    "mean_pooled",
    "pack",
    "pooled_logits",
    "select_tokens",
    "select_words",
    "span_examples",
    "special_ids",
    "token_loss",
]
