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
from retrobench.objective import Vocabulary
from retrobench.retrieval import embedding
from retrobench.retrieval.tokenised import Texts
from retrobench.retrieval.vectors import Terms
from retrobench.retrieval.vectors import Vectors as Stored
from retrobench.stages import Work, encode
from retrobench.store import Artifact

KINDS: tuple[Literal["passage"], Literal["query"]] = ("passage", "query")
SIZES = Representations(dense=8, terms=5, scale=0.5)
IDS = torch.tensor([[4, 20, 30, 40, 50, 5], [4, 21, 31, 5, 0, 0], [4, 5, 0, 0, 0, 0]])  # the last text is empty
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Which adds [CLS] and [SEP] itself, as that of every released BERT does."""
    built = word_piece()
    ids = built.get_vocab()
    ends = [(token, ids[token]) for token in ("[SEP]", "[CLS]")]
    built.backend_tokenizer.post_processor = BertProcessing(*ends)
    return built


def encoder(tokenizer: PreTrainedTokenizerFast, representation: str, sizes: Representations = SIZES) -> Encoder:
    """On a random BERT whose weights are large enough for texts to differ."""
    lm = model("bert", tokenizer)
    torch.manual_seed(1)
    for name, parameter in lm.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    return Encoder(Backbone(lm), representation, sizes).eval()


def plain(built: Encoder) -> tuple[Tensor, Tensor]:
    """Last hidden states and logits as transformers itself computes them."""
    out = built.backbone.lm(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    return out.hidden_states[-1], out.logits


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
    assert vectors.terms is None and dense(vectors).shape == (3, 32)
    torch.testing.assert_close(vectors.dense, plain(built)[0][:, 0])


def test_mean(tokenizer: PreTrainedTokenizerFast) -> None:
    """[CLS] and [SEP] take part, padding does not."""
    built = encoder(tokenizer, "mean")
    vectors = built(IDS, MASK)
    hidden = plain(built)[0]
    assert vectors.terms is None and dense(vectors).shape == (3, 32)
    torch.testing.assert_close(dense(vectors)[0], hidden[0].mean(0))
    torch.testing.assert_close(dense(vectors)[1], hidden[1, :4].mean(0))
    torch.testing.assert_close(dense(vectors)[2], hidden[2, :2].mean(0))


def test_terms(tokenizer: PreTrainedTokenizerFast) -> None:
    """The largest logit of each word over all real tokens but [CLS]."""
    for activation in ("raw", "log1p"):
        built = encoder(tokenizer, "terms", replace(SIZES, activation=activation))
        vectors = built(IDS, MASK)
        logits = plain(built)[1]
        largest = torch.stack([logits[0, 1:].amax(0), logits[1, 1:4].amax(0), logits[2, 1]])
        assert vectors.dense is None and terms(vectors).shape == (3, 400)
        assert largest.min() < 0 < largest.max()
        torch.testing.assert_close(vectors.terms, largest if activation == "raw" else largest.clamp(min=0).log1p())


def test_cls_and_terms(tokenizer: PreTrainedTokenizerFast) -> None:
    built = encoder(tokenizer, "cls+terms")
    assert built.projection is not None and built.projection.weight.shape == (8, 32)
    vectors = built(IDS, MASK)
    torch.testing.assert_close(vectors.dense, plain(built)[0][:, 0] @ built.projection.weight.T)
    torch.testing.assert_close(vectors.terms, encoder(tokenizer, "terms")(IDS, MASK).terms)
    assert dense(vectors).shape == (3, 8)


def test_unit_vectors(tokenizer: PreTrainedTokenizerFast) -> None:
    for representation in ("cls", "mean"):
        raw = encoder(tokenizer, representation)(IDS, MASK)
        unit = encoder(tokenizer, representation, replace(SIZES, normalize=True))(IDS, MASK)
        torch.testing.assert_close(dense(unit), dense(raw) / dense(raw).norm(dim=1, keepdim=True))


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_similarity(tokenizer: PreTrainedTokenizerFast, representation: str, count: int) -> None:
    """A document counts by its largest terms, a query by all of them; no two roles are alike."""
    built = encoder(tokenizer, representation, replace(SIZES, terms=count, activation="raw"))
    with torch.inference_mode():
        vectors = built(IDS, MASK)
    queries = Embeddings(*(None if field is None else field[:2] for field in vectors))
    scores = built.similarity(queries, vectors)
    assert scores.shape == (2, 3) and scores.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(built.similarity(queries, vectors), scores)
    for query in range(2):
        for document in range(3):
            expected = 0.0
            if vectors.dense is not None:
                expected += float(vectors.dense[query] @ vectors.dense[document])
            if vectors.terms is not None:
                weights = vectors.terms[document].tolist()
                largest = sorted(range(400), key=lambda word: weights[word], reverse=True)[:count]
                expected += 0.5 * sum(weights[word] * float(vectors.terms[query, word]) for word in largest)
            assert float(scores[query, document]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_keep_largest() -> None:
    largest = keep_largest(torch.tensor([[0.0, 3.0, -1.0, 2.0]]), 2)
    assert largest.indices.tolist() == [[1, 3]]
    assert largest.values.tolist() == [[3.0, 2.0]]
    assert keep_largest(torch.zeros(2, 4), 9).indices.shape == (2, 4)


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
    built.similarity(built(IDS[:2], MASK[:2]), built(IDS, MASK)).square().sum().backward()  # type: ignore[no-untyped-call]
    parameters = dict(built.named_parameters())
    weight_names = {
        "layers": "backbone.lm.bert.encoder.layer.0.attention.self.value.weight",
        "head": "backbone.lm.cls.predictions.transform.dense.weight",
        "projection": "projection.weight",
    }
    for module, name in weight_names.items():
        gradient = parameters[name].grad if name in parameters else None
        assert (gradient is not None and bool(gradient.any())) == (module in reached), module
    bias = parameters["backbone.lm.cls.predictions.bias"].grad
    assert (bias is not None and bool(bias.any())) == ("head" in reached)
    words = parameters["backbone.lm.bert.embeddings.word_embeddings.weight"].grad
    assert words is not None and words[20].any()
    absent = [word for word in range(400) if word not in set(IDS.flatten().tolist())]
    assert bool(words[absent].any()) == ("head" in reached)


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


def own_dense(built: Encoder, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """The vectors as the harness makes them, from token ids without special ones."""
    facts = vocabulary(tokenizer, 400)
    vectors = []
    for text in texts:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"][: MAX_LENGTH - 2]
        ids = torch.tensor([[facts.cls, *tokens, facts.sep]])
        with torch.inference_mode():
            vectors.append(dense(built(ids, torch.ones_like(ids))))
    return torch.cat(vectors)


@pytest.mark.parametrize(("representation", "normalize", "modules"), EXPORTS)
def test_a_saved_encoder_loads_elsewhere(
    tokenizer: PreTrainedTokenizerFast, representation: str, normalize: bool, modules: set[str], tmp_path: Path
) -> None:
    """In plain AutoModel the same hidden states, in SentenceTransformer the same vectors; nothing pickled."""
    built = encoder(tokenizer, representation, replace(SIZES, normalize=normalize))
    built.save(tmp_path, tokenizer, MAX_LENGTH)
    built.save(tmp_path, tokenizer, MAX_LENGTH)  # over an attempt that was cut short
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == PLAIN | LAYOUT | modules

    with torch.inference_mode():
        bare = AutoModel.from_pretrained(tmp_path).eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
        assert torch.equal(bare, built.backbone.hidden(IDS, MASK))

    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded.max_seq_length == MAX_LENGTH and loaded.similarity_fn_name == "dot"
    theirs = loaded.encode(TEXTS, convert_to_tensor=True)
    ours = own_dense(built, tokenizer, TEXTS)
    assert theirs.shape == ours.shape == (len(TEXTS), 8 if representation == "cls+terms" else 32)
    assert torch.cosine_similarity(theirs, ours).min() >= 0.9999
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    similarities = torch.nn.functional.normalize(ours[:6]) @ torch.nn.functional.normalize(ours[:6]).T
    assert (similarities - torch.eye(6)).max() < 0.9999, "texts differ enough for the comparison to mean something"


def test_the_card_says_what_is_missing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for representation in ("cls", "cls+terms"):
        (tmp_path / representation).mkdir()
        encoder(tokenizer, representation).save(tmp_path / representation, tokenizer, MAX_LENGTH)
    both = (tmp_path / "cls+terms" / "README.md").read_text()
    assert "gives the dense part alone" in both and "scores without them are not the ones in the leaderboard" in both
    assert "both giving the vectors retrobench searched" in (tmp_path / "cls" / "README.md").read_text()


def test_terms_alone_have_no_dense_part_to_export(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    encoder(tokenizer, "terms").save(tmp_path, tokenizer, MAX_LENGTH)
    assert {path.name for path in tmp_path.iterdir()} == PLAIN


@pytest.mark.parametrize("representation", ["cls", "terms", "cls+terms"])
def test_a_saved_encoder_goes_on_here(tokenizer: PreTrainedTokenizerFast, representation: str, tmp_path: Path) -> None:
    """With its head and its projection."""
    built = encoder(tokenizer, representation)
    built.save(tmp_path, tokenizer, MAX_LENGTH)
    torch.manual_seed(5)
    again, facts = load_encoder(tmp_path, representation, SIZES)
    assert facts == vocabulary(tokenizer, 400) and not again.training
    for ours, theirs in zip(built(IDS, MASK), again(IDS, MASK), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_exports(family: str, tmp_path: Path) -> None:
    base = make(family, tmp_path)
    built = Encoder(base.backbone(), "cls+terms", SIZES).eval()
    (tmp_path / "export").mkdir()
    built.save(tmp_path / "export", base.tokenizer, MAX_LENGTH)
    ids, real = pack([base.texts[row] for row in range(4)], base.vocabulary, MAX_LENGTH)[:2]
    with torch.inference_mode():
        bare = AutoModel.from_pretrained(tmp_path / "export").eval()(input_ids=ids, attention_mask=real)
        torch.testing.assert_close(bare.last_hidden_state, built.backbone.hidden(ids, real), rtol=0, atol=1e-6)
    modules = json.loads((tmp_path / "export" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense"]


# The stage


READING = Reading(query_length=12, passage_length=MAX_LENGTH)


def on(store: Path, representation: str, sizes: Representations = SIZES) -> Work:
    return works.work(store, on=works.experiment(representation, representation=sizes))


def artifacts(built: Encoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[Artifact, Artifact]:
    """An encoder and texts where the stages would have left them."""
    for name in ("encoder", "texts"):
        (folder / name).mkdir()
    built.save(folder / "encoder", tokenizer, MAX_LENGTH)
    write_tokens(folder / "texts", sentences(40), tokenizer)
    return tuple(Artifact(name, name, folder / name, True, {}) for name in ("encoder", "texts"))  # type: ignore[return-value]


def one_by_one(built: Encoder, facts: Vocabulary, texts: TokenisedTexts, length: int) -> list[Embeddings]:
    with torch.inference_mode():
        return [built(*pack([texts[row]], facts, length)[:2]) for row in range(len(texts))]


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
@pytest.mark.parametrize(("window", "tokens"), [(4096, 8192), (7, 100), (10, 1)])
def test_encoding_in_batches_equals_one_by_one(
    tokenizer: PreTrainedTokenizerFast,
    representation: str,
    window: int,
    tokens: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padding and company change nothing beyond rounding, and every row stands in its place."""
    monkeypatch.setattr(embedding, "WINDOW", window)
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": tokens})
    built = encoder(tokenizer, representation)
    weights, texts = artifacts(built, tokenizer, tmp_path)
    work, source = on(tmp_path / "store", representation), TokenisedTexts.open(texts.path)
    passages, queries = (encode(work, weights, texts, kind, READING) for kind in KINDS)
    facts = vocabulary(tokenizer, 400)
    expected = {length: one_by_one(built, facts, source, length) for length in (MAX_LENGTH, 12)}
    for artifact, length in ((passages, MAX_LENGTH), (queries, 12)):
        stored_vectors = Stored.open(artifact.path)
        assert stored_vectors.ids == source.ids and stored_vectors.manifest["representation"] == representation
        assert (stored_vectors.manifest["model"], stored_vectors.manifest["texts"]) == (weights.key, texts.key)
        assert stored_vectors.width == {"terms": 0, "cls+terms": 8}.get(representation, 32)
        assert stored_vectors.words == (400 if "terms" in representation else 0)
        if stored_vectors.width:
            close(stored_vectors.dense(0, len(stored_vectors)), torch.cat([dense(v) for v in expected[length]]))
        if stored_vectors.words:
            stored_terms = stored_vectors.terms(0, len(stored_vectors))
            expected_terms = torch.cat([terms(v) for v in expected[length]])
            if artifact is passages:
                largest = keep_largest(expected_terms, SIZES.terms)
                expected_terms = torch.zeros_like(expected_terms).scatter(1, largest.indices, largest.values)
            close(spread(stored_terms, 400), expected_terms)
            assert (stored_terms.values > 0).all(), "terms of weight 0 are not stored"
    real = np.minimum(source.lengths + 2, MAX_LENGTH).sum()
    assert (passages.cost["texts"], passages.cost["tokens"]) == (len(source), real)


def spread(sparse: Terms, words: int) -> np.ndarray:
    """Sparse rows written out, [n, words]; their columns ascend."""
    counts = np.diff(sparse.indptr)
    rows = np.repeat(np.arange(len(counts)), counts)
    assert (np.diff(sparse.indices)[np.diff(rows) == 0] > 0).all()
    whole = np.zeros((len(counts), words), np.float32)
    whole[rows, sparse.indices] = sparse.values
    return whole


def close(vectors: np.ndarray, expected: Tensor) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("representation", ["cls", "terms"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_vectors_that_are_not_finite_are_refused(
    tokenizer: PreTrainedTokenizerFast, representation: str, kind: Literal["query", "passage"], tmp_path: Path
) -> None:
    built = encoder(tokenizer, representation)
    torch.nn.init.constant_(built.backbone.lm.bert.encoder.layer[1].output.dense.weight, float("nan"))
    weights, texts = artifacts(built, tokenizer, tmp_path)
    with pytest.raises(RetrobenchError, match=rf"^The {kind} vector of row 0 and 41 near it are not finite"):
        encode(on(tmp_path / "store", representation), weights, texts, kind, READING)
    assert not [path for path in (tmp_path / "store" / "encode").glob("*[!k]") if path.suffix != ".partial"]


def test_batches_as_they_are_packed(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Those of the stage are those of training."""
    write_tokens(tmp_path, sentences(30), tokenizer)
    source, facts = TokenisedTexts.open(tmp_path), vocabulary(tokenizer, 400)
    for length in (3, 12, MAX_LENGTH):
        window = Texts.of(source, 7, 32, facts, length)
        rows = np.asarray([24, 0, 23, 5])
        ids, mask, _ = pack([source[7 + row] for row in rows], facts, length)
        window_ids, window_mask = window.batch(rows)
        assert torch.equal(window_ids, ids) and torch.equal(window_mask, mask)
        assert np.array_equal(window.lengths[rows], mask.sum(1))


def test_stored_in_fewer_bits(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """What is stored is the float32 vector rounded once, and the track's identity says so."""
    built = encoder(tokenizer, "cls")
    weights, texts = artifacts(built, tokenizer, tmp_path)
    plain = on(tmp_path / "store", "cls")
    whole = encode(plain, weights, texts, "passage", READING)
    exact = torch.from_numpy(Stored.open(whole.path).dense(0, 42))
    for dtype in ("float16", "bfloat16"):
        work = on(tmp_path / "store", "cls", replace(SIZES, stored=dtype))
        stored_vectors = Stored.open(encode(work, weights, texts, "passage", READING).path)
        assert stored_vectors.dtype == dtype and work.experiment.track.identity != plain.experiment.track.identity
        assert (stored_vectors.folder / "dense.npy").stat().st_size == 128 + 42 * 32 * 2
        rounded = exact.to(getattr(torch, dtype)).float()
        assert torch.equal(torch.from_numpy(stored_vectors.dense(0, 42)), rounded) and not torch.equal(rounded, exact)
