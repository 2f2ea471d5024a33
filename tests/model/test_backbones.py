"""The parts of each family's model under one set of names, and the decoder that is built from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, WORDS, Base, make
from contexts import wrapped
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertForMaskedLM, ElectraConfig, ElectraForMaskedLM

from retrobench.errors import RetrobenchError
from retrobench.model import Backbone, Pretraining, WordGenerator
from retrobench.model.decoder import EnhancedDecoder
from retrobench.model.loading import load_backbone
from retrobench.model.masking import Packed, decoder_visibility, pack
from retrobench_retromae import RetroMAE

Form = Literal["positions", "embedding"]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def packed_texts(base: Base) -> Packed:
    texts = [base.texts[row] for row in range(6)]
    return pack(texts, base.vocabulary, MAX_LENGTH)


def retromae(base: Base) -> tuple[Backbone, EnhancedDecoder]:
    model = wrapped(RetroMAE(), base.backbone()).eval()
    assert isinstance(model, Pretraining)
    assert isinstance(model.decoder, EnhancedDecoder)
    assert isinstance(model.backbone, Backbone)
    return model.backbone, model.decoder


# Tokenizers


NO_WORDS = {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"}
NO_WORDS |= {"[unused0]", "[unused1]"}


def test_the_tokenizer_says_which_ids_are_no_words(base: Base) -> None:
    words, tokenizer = base.vocabulary, base.tokenizer
    assert words.size == WORDS
    assert words.pad == tokenizer.pad_token_id
    assert words.mask == tokenizer.mask_token_id
    assert words.cls == tokenizer.cls_token_id
    assert words.sep == tokenizer.sep_token_id
    assert len(tokenizer) < WORDS
    special = set(range(len(tokenizer), WORDS))  # rows of the model that no token has
    for token, token_id in tokenizer.get_vocab().items():
        if token in NO_WORDS:
            special.add(token_id)
    assert words.special == special


def whole_words(base: Base, ids: list[int], starts: list[bool]) -> list[str]:
    """Decode ids word by word, each word from its start to the next one."""
    words: list[list[int]] = []
    for token_id, is_start in zip(ids, starts, strict=True):
        if is_start:
            words.append([])
        words[-1].append(token_id)
    return [str(base.tokenizer.decode(word)).strip() for word in words]


def test_words_begin_where_the_tokenizer_begins_them(base: Base) -> None:
    assert len(base.texts) == len(base.parts)
    for row, (_, title, text) in enumerate(base.parts):
        passage = base.texts[row]
        for words, ids, starts in (
            (title, passage.title, passage.title_starts),
            (text, passage.text, passage.text_starts),
        ):
            assert ids.tolist() == base.tokenizer.encode(words, add_special_tokens=False)
            assert whole_words(base, ids.tolist(), starts.tolist()) == words.split()


def test_texts_have_words_of_several_pieces(base: Base) -> None:
    """Check the texts themselves: without such words other tests would not tell words from pieces."""
    passages = [base.texts[row] for row in range(5)]
    assert any(not passage.text_starts.all() for passage in passages)


# Parts


def test_the_parts_make_up_the_model(base: Base) -> None:
    backbone = base.backbone().eval()
    assert backbone.word_bias is not None
    nn.init.normal_(backbone.word_bias)
    ids, mask, _ = packed_texts(base)
    whole = backbone.lm(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    hidden = backbone.hidden(ids, mask)
    assert torch.equal(whole.hidden_states[0], backbone.embed(ids))
    assert torch.equal(whole.logits, backbone.logits(hidden))
    logits = backbone.transform(hidden) @ backbone.word_matrix.T + backbone.word_bias
    torch.testing.assert_close(whole.logits, logits, rtol=1e-5, atol=1e-5)
    assert backbone.word_matrix.shape == (WORDS, backbone.config.hidden_size)
    assert backbone.word_matrix is backbone.lm.get_input_embeddings().weight


def test_the_mask_of_a_gpu_hides_as_transformers_own(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare at the real tokens, for texts longer than the window of a local layer."""
    backbone = base.backbone().eval()
    if backbone.config.model_type == "modernbert":
        monkeypatch.setattr(backbone.config, "local_attention", 12)
    ids, mask, _ = packed_texts(base)
    assert mask.shape[1] > 12
    own_mask: Any = backbone._family._device_mask(backbone.lm, mask)
    expected = backbone.hidden(ids, mask)
    masked = backbone.lm.base_model(input_ids=ids, attention_mask=own_mask).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(masked[real], expected[real], rtol=1e-6, atol=1e-6)
    assert masked.isfinite().all()
    if backbone.config.model_type == "modernbert":
        whole = backbone.lm.base_model(input_ids=ids, attention_mask=own_mask["full_attention"]).last_hidden_state
        assert (whole[real] - expected[real]).abs().max() > 1e-3, "the window of the local layers counts"


def test_the_lent_positions_are_those_of_the_tokens(base: Base) -> None:
    """Build the whole embedding from words, positions from the table's beginning, type and norm."""
    backbone = base.backbone().eval()
    if backbone.positions is None:
        assert backbone.config.model_type == "modernbert"
        return
    ids, mask, _ = packed_texts(base)
    real = mask.bool()
    words = backbone.word_matrix[ids]
    positions = backbone.positions[: ids.shape[1]]
    module = backbone.lm.base_model.embeddings
    token_type = module.token_type_embeddings.weight[0]
    expected = module.LayerNorm(words + positions + token_type)[real]
    by_ids = backbone.embed(ids)[real]
    by_words = backbone.embed(inputs_embeds=words)[real]
    torch.testing.assert_close(by_ids, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_words, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_generator_predicts_as_its_model(base: Base, attention: str) -> None:
    packed = packed_texts(base)
    models = [
        base.backbone().lm,
        ElectraForMaskedLM(ElectraConfig(vocab_size=WORDS, hidden_size=16, num_attention_heads=2)),
    ]
    for lm in models:
        lm.eval().set_attn_implementation(attention)
        generator = WordGenerator(lm, MAX_LENGTH)
        with torch.no_grad():
            logits = generator.logits(generator.hidden(packed.input_ids, packed.attention_mask))
            own = lm(input_ids=packed.input_ids, attention_mask=packed.attention_mask).logits
        torch.testing.assert_close(logits, own)


DISTIL_BERT = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
ELECTRA = ElectraConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, embedding_size=16)


@pytest.mark.parametrize(
    "unsupported",
    [DistilBertForMaskedLM(DISTIL_BERT), ElectraForMaskedLM(ELECTRA)],
    ids=lambda model: model.config.model_type,
)
def test_an_unsupported_family_is_refused_by_name(unsupported: Any) -> None:
    with pytest.raises(RetrobenchError) as refused:
        Backbone(unsupported)
    family = unsupported.config.model_type
    message = str(refused.value)
    assert message.startswith(f"Unknown backbone family '{family}'.")
    assert "Known: bert, modernbert, roberta, xlm-roberta. Choose a base model" in message
    assert "\n" not in message


# The decoder


def save(model: Any, base: Base, folder: Path) -> None:
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def drop_weights(folder: Path, module_names: list[str]) -> None:
    """Drop the weights of modules, given by a part of their names, from a saved model."""
    file = folder / "model.safetensors"
    remaining = load_file(file)
    for module_name in module_names:
        names = [name for name in remaining if module_name in name]
        assert names
        for name in names:
            del remaining[name]
    save_file(remaining, file, {"format": "pt"})


def test_a_whole_checkpoint_is_loaded_without_a_word(
    base: Base, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save(base.lm, base, tmp_path)
    capfd.readouterr()  # transformers' bar
    backbone, _ = load_backbone(tmp_path)
    assert capfd.readouterr().err == ""
    expected = base.lm.state_dict()
    for name, weight in backbone.lm.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_a_head_that_a_checkpoint_lacks_is_told_of(
    base: Base, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bare"
    save(base.lm, base, folder)
    head = [name for name, _ in base.lm.named_children() if name != base.lm.base_model_prefix]
    drop_weights(folder, [f"{name}." for name in head])
    capfd.readouterr()  # transformers' bar
    load_backbone(folder)
    assert capfd.readouterr().err.startswith("bare lacks tensors of the masked-language-modelling head")


def test_a_checkpoint_of_the_encoder_alone_lacks_a_head(
    base: Base, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Load weights whose names have no prefix."""
    folder = tmp_path / "encoder"
    save(base.lm.base_model, base, folder)
    capfd.readouterr()  # transformers' bar
    load_backbone(folder)
    assert capfd.readouterr().err.startswith("encoder lacks tensors of the masked-language-modelling head")


def test_a_checkpoint_without_all_of_its_encoder_is_refused(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    save(base.lm, base, folder)
    drop_weights(folder, [".1."])
    message = r"model folder 'half' lack \d+ tensors of the encoder, such as \S+\.1\.\S+;"
    with pytest.raises(RetrobenchError, match=message):
        load_backbone(folder)


def test_the_decoder_owns_positions_only_where_there_are_none_to_lend(base: Base) -> None:
    backbone, decoder = retromae(base)
    owns_positions = decoder.positions is not None
    lends_positions = backbone.positions is not None
    assert owns_positions == (backbone.config.model_type == "modernbert")
    assert owns_positions != lends_positions
    assert ("positions.weight" in decoder.state_dict()) == owns_positions
    for name in backbone.lm.state_dict():
        assert "decoder.positions" not in name


def test_the_decoder_begins_as_the_family_does(base: Base) -> None:
    """Draw its matrices with the family's deviation, not with that of torch."""
    backbone, decoder = retromae(base)
    expected = pytest.approx(backbone.config.initializer_range, rel=0.15)
    for name, weight in decoder.state_dict().items():
        if weight.ndim == 2 and "norm" not in name:
            assert weight.std().item() == expected, name


@pytest.mark.parametrize("form", ["positions", "embedding"])
def test_no_position_sees_its_own_token(base: Base, form: Form) -> None:
    backbone, decoder = retromae(base)
    ids, mask, words = packed_texts(base)
    torch.manual_seed(0)
    visible = decoder_visibility(words, mask.sum(1), 0.5, 256)
    sentence = torch.randn(len(visible), backbone.config.hidden_size)

    def rebuilt(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return decoder(backbone, sentence, ids, visible, form)  # type: ignore[no-any-return]

    rows = rebuilt(ids)
    real = mask.bool()
    for position in range(1, 9):
        changed = ids.clone()
        changed[:, position] = (ids[:, position] + 7) % (WORDS - 20) + 10
        differences = (rebuilt(changed) - rows).abs().amax(-1)
        has_changed = differences > 1e-6  # [B, L]
        sees_position = visible[:, :, position]
        assert not has_changed[:, position].any()
        assert torch.equal(has_changed[real], sees_position[real])


@pytest.mark.parametrize("form", ["positions", "embedding"])
def test_the_sentence_vector_reaches_every_row(base: Base, form: Form) -> None:
    """Show only [CLS] of the text: each row still depends on the sentence vector, and on its position."""
    backbone, decoder = retromae(base)
    ids = packed_texts(base).input_ids
    texts, length = ids.shape
    visible = torch.zeros(texts, length, length, dtype=torch.bool)
    visible[:, :, 0] = True
    sentence = torch.randn(texts, backbone.config.hidden_size, requires_grad=True)
    rows = decoder(backbone, sentence, ids, visible, form)
    for position in range(3):
        loss = rows[:, position].square().sum()
        (slope,) = torch.autograd.grad(loss, sentence, retain_graph=True)
        assert slope.norm(dim=1).min() > 0
    distances = (rows[:, 1] - rows[:, 2]).norm(dim=1)
    assert distances.min() > 1e-3
    without_sentence = decoder(backbone, torch.zeros_like(sentence), ids, visible, form)
    assert not torch.equal(without_sentence, rows)
