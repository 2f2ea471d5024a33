"""The parts of each family's model under one set of names, and the decoder that is built from them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, WORDS, Base, make
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DistilBertConfig, DistilBertForMaskedLM, ElectraConfig, ElectraForMaskedLM

from retrobench.errors import RetrobenchError
from retrobench.model.backbones import Backbone, Pretraining
from retrobench.model.decoder import EnhancedDecoder
from retrobench.model.loading import load_backbone
from retrobench.model.masking import Packed, decoder_visibility, pack
from retrobench_retromae import RetroMAE

Form = Literal["positions", "embedding"]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def texts(base: Base) -> Packed:
    return pack([base.texts[row] for row in range(6)], base.vocabulary, MAX_LENGTH)


def retromae(base: Base) -> tuple[Backbone, EnhancedDecoder]:
    model = RetroMAE().wrap(base.backbone()).eval()
    assert isinstance(model, Pretraining) and isinstance(model.decoder, EnhancedDecoder)
    assert isinstance(model.backbone, Backbone)
    return model.backbone, model.decoder


# Tokenizers


def test_the_tokenizer_says_which_ids_are_no_words(base: Base) -> None:
    words, tokens = base.vocabulary, base.tokenizer
    assert words.size == WORDS and words.pad == tokens.pad_token_id and words.mask == tokens.mask_token_id
    assert (words.cls, words.sep) == (tokens.cls_token_id, tokens.sep_token_id)
    names = {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"}
    unused = {"[unused0]", "[unused1]"}
    expected = {i for token, i in tokens.get_vocab().items() if token in names | unused}
    assert words.special == expected | set(range(len(tokens), WORDS)) and len(tokens) < WORDS


def test_words_begin_where_the_tokenizer_begins_them(base: Base) -> None:
    for (_, title, text), row in zip(base.parts, range(len(base.texts)), strict=True):
        passage = base.texts[row]
        for prefix, ids, starts in (
            (title, passage.title, passage.title_starts),
            (text, passage.text, passage.text_starts),
        ):
            assert ids.tolist() == base.tokenizer.encode(prefix, add_special_tokens=False)
            assert int(starts.sum()) == len(prefix.split())
            cut = [index for index in range(len(ids)) if starts[index]] + [len(ids)]
            pieces = [ids[a:b].tolist() for a, b in itertools.pairwise(cut)]
            assert [str(base.tokenizer.decode(word)).strip() for word in pieces] == prefix.split()
    assert any(int(base.texts[row].text_starts.sum()) < len(base.texts[row].text) for row in range(5))


# Parts


def test_the_parts_make_up_the_model(base: Base) -> None:
    backbone = base.backbone().eval()
    assert backbone.word_bias is not None
    nn.init.normal_(backbone.word_bias)
    packed = texts(base)
    whole = backbone.lm(input_ids=packed.input_ids, attention_mask=packed.attention_mask, output_hidden_states=True)
    hidden = backbone.hidden(packed.input_ids, packed.attention_mask)
    assert torch.equal(whole.hidden_states[0], backbone.embed(packed.input_ids))
    assert torch.equal(whole.logits, backbone.logits(hidden))
    by_parts = backbone.transform(hidden) @ backbone.word_matrix.T + backbone.word_bias
    torch.testing.assert_close(whole.logits, by_parts, rtol=1e-5, atol=1e-5)
    assert backbone.word_matrix.shape == (WORDS, backbone.config.hidden_size)
    assert backbone.word_matrix is backbone.lm.get_input_embeddings().weight


def test_the_lent_positions_are_those_of_the_tokens(base: Base) -> None:
    """Words, positions from the table's beginning, type and norm are the whole embedding."""
    backbone = base.backbone().eval()
    if backbone.positions is None:
        assert backbone.config.model_type == "modernbert"
        return
    packed = texts(base)
    words = backbone.word_matrix[packed.input_ids] + backbone.positions[: packed.input_ids.shape[1]]
    module = backbone.lm.base_model.embeddings
    expected = module.LayerNorm(words + module.token_type_embeddings.weight[0])
    result, real = backbone.embed(packed.input_ids), packed.attention_mask.bool()
    torch.testing.assert_close(result[real], expected[real], rtol=1e-5, atol=1e-5)
    shared = backbone.embed(inputs_embeds=backbone.word_matrix[packed.input_ids])
    torch.testing.assert_close(shared[real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "unsupported",
    [
        DistilBertForMaskedLM(DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32)),
        ElectraForMaskedLM(ElectraConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, embedding_size=16)),
    ],
    ids=lambda model: model.config.model_type,
)
def test_an_unsupported_family_is_refused_by_name(unsupported: Any) -> None:
    with pytest.raises(RetrobenchError) as refused:
        Backbone(unsupported)
    message = str(refused.value)
    assert message.startswith(f"Unknown backbone family '{unsupported.config.model_type}'.")
    assert "Known: bert, modernbert, roberta, xlm-roberta. Choose a base model" in message
    assert "\n" not in message


# The decoder


def saved_without(base: Base, folder: Path, *module_names: str) -> Path:
    """The model in a folder, its weights without those whose names hold one of `parts`."""
    base.lm.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    remaining = {name: value for name, value in weights.items() if not any(prefix in name for prefix in module_names)}
    assert bool(module_names) == (len(remaining) < len(weights))
    save_file(remaining, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_whole_checkpoint_is_loaded_without_a_word(
    base: Base, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved_without(base, tmp_path / "whole")
    capfd.readouterr()  # transformers' bar
    backbone, _ = load_backbone(folder)
    assert capfd.readouterr().err == ""
    assert all(torch.equal(value, base.lm.state_dict()[name]) for name, value in backbone.lm.state_dict().items())


def test_a_head_that_a_checkpoint_lacks_is_told_of(
    base: Base, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bare = base.lm.base_model
    head = [name for name, _ in base.lm.named_children() if getattr(base.lm, name) is not bare]
    folder = saved_without(base, tmp_path / "bare", *(f"{name}." for name in head))
    capfd.readouterr()  # transformers' bar
    load_backbone(folder)
    assert capfd.readouterr().err.startswith("bare lacks tensors of the masked-language-modelling head")
    bare.save_pretrained(tmp_path / "encoder")  # no prefix before its names
    base.tokenizer.save_pretrained(tmp_path / "encoder")
    capfd.readouterr()
    load_backbone(tmp_path / "encoder")
    assert capfd.readouterr().err.startswith("encoder lacks tensors of the masked-language-modelling head")


def test_a_checkpoint_without_all_of_its_encoder_is_refused(base: Base, tmp_path: Path) -> None:
    folder = saved_without(base, tmp_path / "half", ".1.")
    text = r"model folder 'half' lack \d+ tensors of the encoder, such as \S+\.1\.\S+;"
    with pytest.raises(RetrobenchError, match=text):
        load_backbone(folder)


def test_the_decoder_owns_positions_only_where_there_are_none_to_lend(base: Base) -> None:
    backbone, decoder = retromae(base)
    assert (decoder.positions is not None) == (backbone.config.model_type == "modernbert")
    assert ("positions.weight" in decoder.state_dict()) == (backbone.positions is None)
    assert not any("decoder.positions" in key for key in backbone.lm.state_dict())
    weights = [value for key, value in decoder.state_dict().items() if "norm" not in key and value.ndim == 2]
    for weight in weights:  # as the family itself begins, not as torch does
        assert weight.std().item() == pytest.approx(backbone.config.initializer_range, rel=0.15)


@pytest.mark.parametrize("form", ["positions", "embedding"])
def test_no_position_sees_its_own_token(base: Base, form: Form) -> None:
    backbone, decoder = retromae(base)
    packed = texts(base)
    torch.manual_seed(0)
    visible = decoder_visibility(packed.words, packed.attention_mask.sum(1), 0.5, 256)
    sentence = torch.randn(len(visible), backbone.config.hidden_size)

    def rebuilt(ids: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = decoder(backbone, sentence, ids, visible, form)
        return out

    own = rebuilt(packed.input_ids)
    for index in range(1, 9):
        changed = packed.input_ids.clone()
        changed[:, index] = (changed[:, index] + 7) % (WORDS - 20) + 10
        moved = (rebuilt(changed) - own).abs().amax(-1) > 1e-6  # [B, L]
        real = packed.attention_mask.bool()
        seen = visible[:, :, index] & real
        assert not moved[:, index].any()
        assert torch.equal(moved & real, seen)


@pytest.mark.parametrize("form", ["positions", "embedding"])
def test_the_sentence_vector_reaches_every_row(base: Base, form: Form) -> None:
    """With nothing of the text visible but [CLS] the decoder still depends on the vector, and on the position."""
    backbone, decoder = retromae(base)
    packed = texts(base)
    visible = torch.zeros(*packed.words.shape, packed.words.shape[1], dtype=torch.bool)
    visible[:, :, 0] = True
    sentence = torch.randn(len(visible), backbone.config.hidden_size, requires_grad=True)
    rows = decoder(backbone, sentence, packed.input_ids, visible, form)
    for index in range(3):
        (slope,) = torch.autograd.grad(rows[:, index].square().sum(), sentence, retain_graph=True)
        assert slope.norm(dim=1).min() > 0
    assert F.pairwise_distance(rows[:, 1], rows[:, 2]).min() > 1e-3
    assert not torch.equal(decoder(backbone, torch.zeros_like(sentence), packed.input_ids, visible, form), rows)
