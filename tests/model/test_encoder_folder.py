"""The folder that an encoder leaves: transformers, sentence-transformers and the harness load it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, make, sentences
from random_encoders import IDS, MASK, SIZES, dense, encoder, released_tokenizer
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerFast

from retrobench.data.tokens import vocabulary
from retrobench.model.encoder import Encoder
from retrobench.model.loading import load_encoder
from retrobench.model.masking import pack

TEXTS = [text for _, _, text in sentences(6)] + ["ba " * 100]  # two are shorter than the others, the last is cut

PLAIN = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
LAYOUT = {"README.md", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
EXPORTS = [
    ("cls", False, {"1_Pooling/config.json"}),
    ("mean", False, {"1_Pooling/config.json"}),
    ("cls", True, {"1_Pooling/config.json", "2_Normalize/config.json"}),
    ("mean", True, {"1_Pooling/config.json", "2_Normalize/config.json"}),
    ("cls+terms", False, {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"}),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return released_tokenizer()


def harness_vectors(built: Encoder, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Return dense vectors as the harness makes them, from token ids without special ones."""
    words = vocabulary(tokenizer, 400)
    vectors = []
    for text in texts:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"][: MAX_LENGTH - 2]
        ids = torch.tensor([[words.cls, *tokens, words.sep]])
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            vectors.append(dense(built(ids, mask)))
    return torch.cat(vectors)


def save_over_an_attempt(built: Encoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save an encoder over the files of an earlier attempt."""
    built.save(folder, tokenizer, MAX_LENGTH)
    built.save(folder, tokenizer, MAX_LENGTH)


@pytest.mark.parametrize(("representation", "normalize", "modules"), EXPORTS)
def test_a_saved_encoder_has_no_pickled_file(
    tokenizer: PreTrainedTokenizerFast, representation: str, normalize: bool, modules: set[str], tmp_path: Path
) -> None:
    built = encoder(tokenizer, representation, replace(SIZES, normalize=normalize))
    save_over_an_attempt(built, tokenizer, tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == PLAIN | LAYOUT | modules


@pytest.mark.parametrize(("representation", "normalize", "modules"), EXPORTS)
def test_a_saved_encoder_loads_elsewhere(
    tokenizer: PreTrainedTokenizerFast, representation: str, normalize: bool, modules: set[str], tmp_path: Path
) -> None:
    """Expect equal hidden states from plain AutoModel, and equal vectors from SentenceTransformer."""
    built = encoder(tokenizer, representation, replace(SIZES, normalize=normalize))
    save_over_an_attempt(built, tokenizer, tmp_path)

    bare = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        states = bare(input_ids=IDS, attention_mask=MASK).last_hidden_state
        own_states = built.backbone.hidden(IDS, MASK)
    assert torch.equal(states, own_states)

    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded.max_seq_length == MAX_LENGTH
    assert loaded.similarity_fn_name == "dot"
    theirs = loaded.encode(TEXTS, convert_to_tensor=True)
    ours = harness_vectors(built, tokenizer, TEXTS)
    assert theirs.shape == ours.shape == (len(TEXTS), built.width)
    assert torch.cosine_similarity(theirs, ours).min() >= 0.9999
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)

    directions = torch.nn.functional.normalize(ours[:6])
    similarities = (directions @ directions.T).fill_diagonal_(0)
    assert similarities.max() < 0.9999, "texts differ enough for the comparison to mean something"


@pytest.mark.parametrize(
    ("representation", "sentences_of_card"),
    [
        ("cls", ["both giving the vectors retrobench searched"]),
        (
            "cls+terms",
            ["gives the dense part alone", "scores without them are not the ones in the leaderboard"],
        ),
    ],
)
def test_the_card_says_what_is_missing(
    tokenizer: PreTrainedTokenizerFast, representation: str, sentences_of_card: list[str], tmp_path: Path
) -> None:
    encoder(tokenizer, representation).save(tmp_path, tokenizer, MAX_LENGTH)
    card = (tmp_path / "README.md").read_text()
    for sentence in sentences_of_card:
        assert sentence in card


def test_terms_alone_have_no_dense_part_to_export(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    encoder(tokenizer, "terms").save(tmp_path, tokenizer, MAX_LENGTH)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == PLAIN


@pytest.mark.parametrize("representation", ["cls", "terms", "cls+terms"])
def test_a_saved_encoder_goes_on_here(tokenizer: PreTrainedTokenizerFast, representation: str, tmp_path: Path) -> None:
    """Load the head and the projection with it."""
    built = encoder(tokenizer, representation)
    built.save(tmp_path, tokenizer, MAX_LENGTH)
    torch.manual_seed(5)
    again, words = load_encoder(tmp_path, representation, SIZES)
    assert words == vocabulary(tokenizer, 400)
    assert not again.training
    expected = built(IDS, MASK)
    vectors = again(IDS, MASK)
    for field, expected_field in zip(vectors, expected, strict=True):
        if expected_field is None:
            assert field is None
        else:
            assert torch.equal(field, expected_field)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_exports(family: str, tmp_path: Path) -> None:
    base = make(family, tmp_path)
    built = Encoder(base.backbone(), "cls+terms", SIZES).eval()
    folder = tmp_path / "export"
    folder.mkdir()
    built.save(folder, base.tokenizer, MAX_LENGTH)
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense"]

    passages = [base.texts[row] for row in range(4)]
    ids, mask, _ = pack(passages, base.vocabulary, MAX_LENGTH)
    bare = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = bare(input_ids=ids, attention_mask=mask).last_hidden_state
        own_states = built.backbone.hidden(ids, mask)
    torch.testing.assert_close(states, own_states, rtol=0, atol=1e-6)
