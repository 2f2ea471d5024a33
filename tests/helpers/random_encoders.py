"""Encoders on a random BERT, one for each representation, and a batch of token ids."""

from __future__ import annotations

import torch
from bases import model, word_piece
from tokenizers.processors import BertProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retrobench.config import Representations
from retrobench.model.backbones import Backbone
from retrobench.model.encoder import Embeddings, Encoder

REPRESENTATIONS = ("cls", "mean", "terms", "cls+terms")
SIZES = Representations(dense=8, terms=5, scale=0.5)
IDS = torch.tensor([[4, 20, 30, 40, 50, 5], [4, 21, 31, 5, 0, 0], [4, 5, 0, 0, 0, 0]])  # the last text is empty
MASK = (IDS != 0).long()


def released_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that adds [CLS] and [SEP] itself, as that of every released BERT does."""
    built = word_piece()
    ids = built.get_vocab()
    sep = ("[SEP]", ids["[SEP]"])
    cls = ("[CLS]", ids["[CLS]"])
    built.backend_tokenizer.post_processor = BertProcessing(sep, cls)
    return built


def encoder(tokenizer: PreTrainedTokenizerFast, representation: str, sizes: Representations = SIZES) -> Encoder:
    """Return an encoder on a random BERT whose weights are large enough for texts to differ."""
    lm = model("bert", tokenizer)
    torch.manual_seed(1)
    for name, parameter in lm.named_parameters():
        is_scale = "LayerNorm.weight" in name
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.3)
    return Encoder(Backbone(lm), representation, sizes).eval()


def dense(vectors: Embeddings) -> Tensor:
    assert vectors.dense is not None
    return vectors.dense


def terms(vectors: Embeddings) -> Tensor:
    assert vectors.terms is not None
    return vectors.terms
