"""Tiny published encoders: folders of sentence-transformers and of plain transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny
import torch
from bases import byte_level, model
from safetensors.torch import load_file, save_file
from tokenizers.processors import BertProcessing

WIDTH, POSITIONS = 16, 64  # of tiny's base
LENGTH = 24
PROMPTS = {"query": "ba da: ", "passage": "fe ge: "}
ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def bare(folder: Path) -> Path:
    """Write a masked language model of two layers, and its tokenizer with [CLS] and [SEP] around a text."""
    tiny.write_base(folder)
    words = tiny.tokenizer()
    _surround(words, "[CLS]", "[SEP]")
    words.save_pretrained(folder)
    return folder


def roberta(folder: Path) -> Path:
    """Write a RoBERTa with 50 positions. Its padding id, 1, leaves 48 of them to tokens."""
    words = byte_level(ROBERTA)
    _surround(words, "<s>", "</s>")
    model("roberta", words).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _surround(words: Any, first: str, last: str) -> None:
    ids = words.get_vocab()
    words.backend_tokenizer.post_processor = BertProcessing((last, ids[last]), (first, ids[first]))


def sentence(
    folder: Path,
    pooling: tuple[str, ...] = ("mean_tokens",),
    dense: int = 0,
    normalize: bool = True,
    says: Mapping[str, Any] | None = None,
) -> Path:
    """Write a sentence-transformers model. `says` is the content of config_sentence_transformers.json."""
    bare(folder)
    modes = {f"pooling_mode_{mode}": True for mode in pooling}
    modules: dict[str, Mapping[str, Any]] = {"Pooling": {"word_embedding_dimension": WIDTH, **modes}}
    pooled_width = WIDTH * len(pooling)
    if dense:
        modules["Dense"] = {
            "in_features": pooled_width,
            "out_features": dense,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        weight = torch.randn(dense, pooled_width, generator=torch.Generator().manual_seed(1))
    if normalize:
        modules["Normalize"] = {}
    listed = [_module(0, "Transformer", "")]
    for number, (kind, settings) in enumerate(modules.items(), 1):
        path = f"{number}_{kind}"
        (folder / path).mkdir()
        write(folder / path / "config.json", settings)
        listed.append(_module(number, kind, path))
    if dense:
        save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    write(folder / "modules.json", listed)
    write(folder / "sentence_bert_config.json", {"max_seq_length": LENGTH, "do_lower_case": False})
    if says is not None:
        write(folder / "config_sentence_transformers.json", says)
    return folder


def _module(number: int, kind: str, path: str) -> dict[str, object]:
    """Return an entry of modules.json."""
    return {"idx": number, "name": f"{number}", "path": path, "type": f"sentence_transformers.models.{kind}"}


def static(folder: Path) -> Path:
    """Write a table of word vectors, whose mean is a text's vector, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = StaticEmbedding(tiny.tokenizer().backend_tokenizer, embedding_dim=WIDTH)
    SentenceTransformer(modules=[table], device="cpu").save(str(folder))
    return folder


def write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content))


def change(file: Path, **entries: object) -> None:
    """Set entries of a JSON object."""
    write(file, {**json.loads(file.read_text()), **entries})


def without(folder: Path, start: str) -> None:
    """Remove the tensors with `start` in their names from a model's weights."""
    tensors = load_file(folder / "model.safetensors")
    remaining = {name: tensor for name, tensor in tensors.items() if start not in name}
    save_file(remaining, folder / "model.safetensors", {"format": "pt"})
