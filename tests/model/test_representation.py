"""Representations against a plain dense computation, and the folders in which encoders leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import works
from bases import FAMILIES, MAX_LENGTH, make, model, sentences, word_piece
from sentence_transformers import SentenceTransformer
from tokenizers.processors import BertProcessing
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerFast

from retrobench.config import Reading, Representations
from retrobench.data.tokens import TokenisedTexts, vocabulary, write_tokens
from retrobench.errors import RetrobenchError
from retrobench.model.backbones import Backbone
from retrobench.model.encoder import Embeddings, Encoder, keep_largest
from retrobench.model.loading import load_encoder
from retrobench.model.masking import pack
from retrobench.retrieval import embedding
from retrobench.retrieval.tokenised import Texts
from retrobench.retrieval.vectors import Terms
from retrobench.retrieval.vectors import Vectors as Stored
from retrobench.stages import Work, encode
from retrobench.store import Artifact

Kind = Literal["passage", "query"]
REPRESENTATIONS = ("cls", "mean", "terms", "cls+terms")
SIZES = Representations(dense=8, terms=5, scale=0.5)
IDS = torch.tensor([[4, 20, 30, 40, 50, 5], [4, 21, 31, 5, 0, 0], [4, 5, 0, 0, 0, 0]])  # the last text is empty
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
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


def states_and_logits(built: Encoder) -> tuple[Tensor, Tensor]:
    """Return last hidden states and logits as transformers itself computes them."""
    output = built.backbone.lm(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    return output.hidden_states[-1], output.logits


def dense(vectors: Embeddings) -> Tensor:
    assert vectors.dense is not None
    return vectors.dense


def terms(vectors: Embeddings) -> Tensor:
    assert vectors.terms is not None
    return vectors.terms


# Equations


def test_cls(tokenizer: PreTrainedTokenizerFast) -> None:
    built = encoder(tokenizer, "cls")
    vectors = built(IDS, MASK)
    states, _ = states_and_logits(built)
    assert vectors.terms is None
    assert dense(vectors).shape == (3, 32)
    torch.testing.assert_close(vectors.dense, states[:, 0])


def test_mean(tokenizer: PreTrainedTokenizerFast) -> None:
    """Average over [CLS] and [SEP] too, but not over padding."""
    built = encoder(tokenizer, "mean")
    vectors = built(IDS, MASK)
    states, _ = states_and_logits(built)
    means = [states[0].mean(0), states[1, :4].mean(0), states[2, :2].mean(0)]
    assert vectors.terms is None
    torch.testing.assert_close(vectors.dense, torch.stack(means))


@pytest.mark.parametrize("activation", ["raw", "log1p"])
def test_terms(tokenizer: PreTrainedTokenizerFast, activation: Literal["raw", "log1p"]) -> None:
    """Take the largest logit of each word over all real tokens but [CLS]."""
    built = encoder(tokenizer, "terms", replace(SIZES, activation=activation))
    vectors = built(IDS, MASK)
    _, logits = states_and_logits(built)
    largest = [logits[0, 1:].amax(0), logits[1, 1:4].amax(0), logits[2, 1]]
    expected = torch.stack(largest)
    assert expected.min() < 0 < expected.max()
    if activation == "log1p":
        expected = expected.clamp(min=0).log1p()
    assert vectors.dense is None
    assert terms(vectors).shape == (3, 400)
    torch.testing.assert_close(vectors.terms, expected)


def test_cls_and_terms(tokenizer: PreTrainedTokenizerFast) -> None:
    built = encoder(tokenizer, "cls+terms")
    terms_alone = encoder(tokenizer, "terms")
    assert built.projection is not None
    assert built.projection.weight.shape == (8, 32)
    vectors = built(IDS, MASK)
    states, _ = states_and_logits(built)
    projected = states[:, 0] @ built.projection.weight.T
    torch.testing.assert_close(vectors.dense, projected)
    torch.testing.assert_close(vectors.terms, terms_alone(IDS, MASK).terms)


@pytest.mark.parametrize("representation", ["cls", "mean"])
def test_unit_vectors(tokenizer: PreTrainedTokenizerFast, representation: str) -> None:
    plain = encoder(tokenizer, representation)
    normalised = encoder(tokenizer, representation, replace(SIZES, normalize=True))
    vectors = dense(plain(IDS, MASK))
    lengths = vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(dense(normalised(IDS, MASK)), vectors / lengths)


def plain_similarity(vectors: Embeddings, query: int, document: int, count: int) -> float:
    """Return the score of two rows by a loop: a document counts by its `count` largest terms."""
    score = 0.0
    if vectors.dense is not None:
        score += float(vectors.dense[query] @ vectors.dense[document])
    if vectors.terms is not None:
        query_weights = vectors.terms[query].tolist()
        document_weights = vectors.terms[document].tolist()
        pairs = sorted(zip(document_weights, query_weights, strict=True), reverse=True)
        for document_weight, query_weight in pairs[:count]:
            score += SIZES.scale * document_weight * query_weight
    return score


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_similarity(tokenizer: PreTrainedTokenizerFast, representation: str, count: int) -> None:
    """Score documents by their largest terms and queries by all of theirs."""
    built = encoder(tokenizer, representation, replace(SIZES, terms=count, activation="raw"))
    with torch.inference_mode():
        documents = built(IDS, MASK)
        queries = built(IDS[:2], MASK[:2])
    scores = built.similarity(queries, documents)
    assert scores.dtype == torch.float32
    assert scores.shape == (2, 3)
    for query in range(2):
        for document in range(3):
            expected = plain_similarity(documents, query, document, count)
            assert float(scores[query, document]) == pytest.approx(expected, rel=1e-4, abs=1e-4)

    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = built.similarity(queries, documents)
    assert torch.equal(under_autocast, scores)


def test_keep_largest() -> None:
    weights = torch.tensor([[0.0, 3.0, -1.0, 2.0]])
    largest = keep_largest(weights, 2)
    assert largest.indices.tolist() == [[1, 3]]
    assert largest.values.tolist() == [[3.0, 2.0]]
    everything = keep_largest(torch.zeros(2, 4), 9)
    assert everything.indices.shape == (2, 4)


MODULES = {
    "backbone.lm.bert.encoder.layer.0.attention.self.value.weight": "layers",
    "backbone.lm.cls.predictions.transform.dense.weight": "head",
    "backbone.lm.cls.predictions.bias": "head",
    "projection.weight": "projection",
}


def names_with_gradient(built: Encoder) -> set[str]:
    names = set()
    for name, parameter in built.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            names.add(name)
    return names


@pytest.mark.parametrize(
    ("representation", "reached"),
    [
        ("cls", {"layers"}),
        ("mean", {"layers"}),
        ("terms", {"layers", "head"}),
        ("cls+terms", {"layers", "head", "projection"}),
    ],
)
def test_gradients_reach_what_the_representation_reads(
    tokenizer: PreTrainedTokenizerFast, representation: str, reached: set[str]
) -> None:
    built = encoder(tokenizer, representation)
    queries = built(IDS[:2], MASK[:2])
    documents = built(IDS, MASK)
    loss = built.similarity(queries, documents).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    names = names_with_gradient(built)
    for name, module in MODULES.items():
        assert (name in names) == (module in reached), name

    gradient = built.backbone.word_matrix.grad
    assert gradient is not None
    assert gradient[20].any()
    is_absent = torch.ones(400, dtype=torch.bool)
    is_absent[IDS] = False
    assert bool(gradient[is_absent].any()) == ("head" in reached)


# The folder

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


# The stage


QUERY_LENGTH = 12
READING = Reading(query_length=QUERY_LENGTH, passage_length=MAX_LENGTH)


def work_on(folder: Path, representation: str, sizes: Representations = SIZES) -> Work:
    experiment = works.experiment(representation, representation=sizes)
    return works.work(folder / "store", on=experiment)


def artifacts(built: Encoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[Artifact, Artifact]:
    """Save an encoder and 42 texts as the stages would have left them."""
    weights = Artifact("encoder", "encoder", folder / "encoder", True, {})
    weights.path.mkdir()
    built.save(weights.path, tokenizer, MAX_LENGTH)
    texts = Artifact("texts", "texts", folder / "texts", True, {})
    texts.path.mkdir()
    write_tokens(texts.path, sentences(40), tokenizer)
    return weights, texts


def embed_one_by_one(
    built: Encoder, tokenizer: PreTrainedTokenizerFast, texts: TokenisedTexts, length: int
) -> list[Embeddings]:
    words = vocabulary(tokenizer, 400)
    rows = []
    for row in range(len(texts)):
        ids, mask, _ = pack([texts[row]], words, length)
        with torch.inference_mode():
            rows.append(built(ids, mask))
    return rows


def without_smaller_terms(weights: Tensor) -> Tensor:
    """Set all weights of a document to zero but its largest."""
    largest = keep_largest(weights, SIZES.terms)
    return torch.zeros_like(weights).scatter(1, largest.indices, largest.values)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize(("window", "tokens"), [(4096, 8192), (7, 100), (10, 1)])
@pytest.mark.parametrize(("kind", "length"), [("passage", MAX_LENGTH), ("query", QUERY_LENGTH)])
def test_encoding_in_batches_equals_one_by_one(
    tokenizer: PreTrainedTokenizerFast,
    representation: str,
    window: int,
    tokens: int,
    kind: Kind,
    length: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Assert that padding and company change only rounding, and that every row stands in its place."""
    monkeypatch.setattr(embedding, "WINDOW", window)
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": tokens})
    built = encoder(tokenizer, representation)
    weights, texts = artifacts(built, tokenizer, tmp_path)
    source = TokenisedTexts.open(texts.path)
    artifact = encode(work_on(tmp_path, representation), weights, texts, kind, READING)
    stored = Stored.open(artifact.path)
    assert stored.ids == source.ids

    rows = embed_one_by_one(built, tokenizer, source, length)
    if built.width:
        expected = torch.cat([dense(row) for row in rows])
        assert_close(stored.dense(0, len(stored)), expected)
    if built.words:
        expected = torch.cat([terms(row) for row in rows])
        if kind == "passage":
            expected = without_smaller_terms(expected)
        stored_terms = stored.terms(0, len(stored))
        assert_close(written_out(stored_terms, 400), expected)
        assert (stored_terms.values > 0).all(), "terms of weight 0 are not stored"

    lengths = np.minimum(source.lengths + 2, length)
    assert artifact.cost["texts"] == len(source)
    assert artifact.cost["tokens"] == lengths.sum()


@pytest.mark.parametrize(
    ("representation", "width", "words"),
    [("cls", 32, 0), ("mean", 32, 0), ("terms", 0, 400), ("cls+terms", 8, 400)],
)
def test_stored_vectors_say_their_origin_and_size(
    tokenizer: PreTrainedTokenizerFast, representation: str, width: int, words: int, tmp_path: Path
) -> None:
    built = encoder(tokenizer, representation)
    assert built.width == width
    assert built.words == words
    weights, texts = artifacts(built, tokenizer, tmp_path)
    work = work_on(tmp_path, representation)
    passages = encode(work, weights, texts, "passage", READING)
    queries = encode(work, weights, texts, "query", READING)
    assert passages.path != queries.path
    for artifact in (passages, queries):
        stored = Stored.open(artifact.path)
        assert stored.width == width
        assert stored.words == words
        assert stored.manifest["representation"] == representation
        assert stored.manifest["model"] == weights.key
        assert stored.manifest["texts"] == texts.key


def written_out(sparse: Terms, words: int) -> np.ndarray:
    """Write sparse rows out, [n, words], and assert that their columns ascend."""
    counts = np.diff(sparse.indptr)
    rows = np.repeat(np.arange(len(counts)), counts)
    in_same_row = np.diff(rows) == 0
    steps = np.diff(sparse.indices)
    assert (steps[in_same_row] > 0).all()
    weights = np.zeros((len(counts), words), np.float32)
    weights[rows, sparse.indices] = sparse.values
    return weights


def assert_close(vectors: np.ndarray, expected: Tensor) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("representation", ["cls", "terms"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_vectors_that_are_not_finite_are_refused(
    tokenizer: PreTrainedTokenizerFast, representation: str, kind: Kind, tmp_path: Path
) -> None:
    built = encoder(tokenizer, representation)
    last_layer = built.backbone.lm.bert.encoder.layer[1]
    torch.nn.init.constant_(last_layer.output.dense.weight, float("nan"))
    weights, texts = artifacts(built, tokenizer, tmp_path)
    work = work_on(tmp_path, representation)
    with pytest.raises(RetrobenchError, match=rf"^The {kind} vector of row 0 and 41 near it are not finite"):
        encode(work, weights, texts, kind, READING)
    folders = (tmp_path / "store" / "encode").glob("*[!k]")
    assert [folder for folder in folders if folder.suffix != ".partial"] == []


@pytest.mark.parametrize("length", [3, QUERY_LENGTH, MAX_LENGTH])
def test_batches_as_they_are_packed(tokenizer: PreTrainedTokenizerFast, length: int, tmp_path: Path) -> None:
    """Assert that the stage packs texts as training does."""
    write_tokens(tmp_path, sentences(30), tokenizer)
    source = TokenisedTexts.open(tmp_path)
    words = vocabulary(tokenizer, 400)
    first, last = 7, 32
    rows = np.asarray([24, 0, 23, 5])
    passages = [source[first + row] for row in rows]
    expected = pack(passages, words, length)

    window = Texts.of(source, first, last, words, length)
    ids, mask = window.batch(rows)
    assert torch.equal(ids, expected.input_ids)
    assert torch.equal(mask, expected.attention_mask)
    assert window.lengths[rows].tolist() == mask.sum(1).tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_in_fewer_bits(
    tokenizer: PreTrainedTokenizerFast, dtype: Literal["float16", "bfloat16"], tmp_path: Path
) -> None:
    """Store the float32 vector rounded once, and change the track's identity."""
    built = encoder(tokenizer, "cls")
    weights, texts = artifacts(built, tokenizer, tmp_path)
    whole_work = work_on(tmp_path, "cls")
    rounded_work = work_on(tmp_path, "cls", replace(SIZES, stored=dtype))
    assert rounded_work.experiment.track.identity != whole_work.experiment.track.identity

    whole = Stored.open(encode(whole_work, weights, texts, "passage", READING).path)
    rounded = Stored.open(encode(rounded_work, weights, texts, "passage", READING).path)
    assert rounded.dtype == dtype
    header = 128
    assert (rounded.folder / "dense.npy").stat().st_size == header + 42 * 32 * 2
    exact = torch.from_numpy(whole.dense(0, 42))
    vectors = torch.from_numpy(rounded.dense(0, 42))
    assert not torch.equal(vectors, exact)
    assert torch.equal(vectors, exact.to(getattr(torch, dtype)).float())
