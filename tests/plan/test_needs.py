"""The needs of a track, against arithmetic by hand and against the known figures of published recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import BOX, H200, find_stage, plan_needs, stage_names, write_small_board
from transformers import BertConfig, BertForMaskedLM

from retrobench.config import Model
from retrobench.errors import RetrobenchError
from retrobench.plan import advice, arithmetic, costs
from retrobench.plan.arithmetic import BERT_BASE, Shape
from retrobench.plan.inventory import look_up, shape_of
from retrobench.plan.needs import Kind, StageNeeds, WorkItem


@pytest.fixture
def small_board(tmp_path: Path) -> Path:
    return write_small_board(tmp_path)


@pytest.mark.parametrize(
    ("objective", "ratio", "at_150", "at_512"),
    [
        # MFLOP per token of BERT-base. One layer at 150 tokens: 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 150 * 768 =
        # 14.616576; twelve, three times: 526.2. One position of the head: 3 * 2 * (768**2 + 768 * 30522) = 144.2.
        ("mlm", 0.15, 547.8, 587.9),  # 526.2 + 0.15 * 144.2
        ("mlm", 0.3, 569.5, 609.5),
        ("retromae", 0.3, 757.5, 800.9),  # 526.2 + 0.3 * 144.2 + 43.8 of the decoder + 144.2
        ("bow-mae", 0.3, 570.4, 609.8),  # 526.2 + 0.3 * 144.2 + 144.2 / 150
        ("dupmae", 0.3, 858.4, 901.8),  # 526.2 + 144.2 + 43.8 + 144.2
        ("a-strangers", 0.3, 569.5, 609.5),  # counted as masked language modelling
    ],
)
def test_flops_of_a_token_under_each_objective(objective: str, ratio: float, at_150: float, at_512: float) -> None:
    assert arithmetic.pretraining(BERT_BASE, 150, objective, ratio) == pytest.approx(at_150 * 1e6, abs=0.05e6)
    assert arithmetic.pretraining(BERT_BASE, 512, objective, ratio) == pytest.approx(at_512 * 1e6, abs=0.05e6)


def test_parameters_are_those_of_the_model() -> None:
    shape = Shape(layers=3, hidden=12, intermediate=20, vocabulary=50, positions=30)
    config = BertConfig(
        vocab_size=50,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=30,
    )
    parameters = BertForMaskedLM(config).parameters()
    assert shape.parameters == sum(parameter.numel() for parameter in parameters)
    assert BERT_BASE.parameters == 109_514_298  # google-bert/bert-base-uncased with its head


def floor_seconds(kind: Kind, flops: float = 0.0, tokens: float = 0.0) -> float:
    stage = StageNeeds("", (WorkItem(kind, tokens, flops),))
    return costs.estimate_seconds(stage, H200).floor


@pytest.mark.parametrize(
    ("kind", "tokens", "flops_per_token", "hours"),
    [
        ("pretrain", 34e9, arithmetic.pretraining(BERT_BASE, 512, "retromae", 0.3), 9.6),
        ("pretrain", 140e3 * 2048 * 512, arithmetic.pretraining(BERT_BASE, 512, "bow-mae", 0.3), 31.5),
        ("pretrain", 80e3 * 2048 * 144, arithmetic.pretraining(BERT_BASE, 144, "bow-mae", 0.3), 4.7),
        ("finetune", 23.6e3 * 64 * 16 * 144, arithmetic.training(BERT_BASE, 144), 39 / 60),
        ("encode", 8_841_823 * 80, arithmetic.encoding(BERT_BASE, 80), 155 / 3600),
    ],
)
def test_floors_of_the_published_recipes_on_one_h200(
    kind: Kind, tokens: float, flops_per_token: float, hours: float
) -> None:
    """Each within 5 % of a figure that was worked out independently: bf16 at 790 TFLOP/s."""
    assert floor_seconds(kind, tokens * flops_per_token) / 3600 == pytest.approx(hours, rel=0.05)


def test_sizes_of_ms_marco_on_one_h200() -> None:
    search = arithmetic.searching(6_980, 8_841_823, 768)
    assert floor_seconds("search", search) == pytest.approx(0.12, rel=0.05)
    assert floor_seconds("tokenise", tokens=8_841_823 * 80) == pytest.approx(583, rel=0.05)
    assert arithmetic.vector_bytes(8_841_823, 768) == pytest.approx(27.2e9, rel=0.05)
    assert arithmetic.activation_bytes(BERT_BASE, 64 * 16 * 80) == pytest.approx(50e9, rel=0.05)


def test_the_stages_of_msmarco_have_those_floors() -> None:
    needs = plan_needs("msmarco")
    pretraining = find_stage(needs, "pretrain")
    assert pretraining.items[0].tokens == pytest.approx(34e9, rel=0.01)
    assert costs.estimate_seconds(pretraining, H200).floor / 3600 == pytest.approx(9.6, rel=0.05)
    mining = find_stage(needs, "mine")
    documents = max(mining.items, key=lambda item: item.tokens)
    assert floor_seconds("encode", documents.flops) == pytest.approx(155, rel=0.05)
    # The training queries' vectors and 200 candidates each come on top of the documents' vectors.
    assert mining.disk == pytest.approx(27.2e9, rel=0.1)


def test_padding_makes_finetuning_slower() -> None:
    # 64 queries with 16 passages for 3 epochs. The 22 minutes are without the 9 tokens of a query.
    finetuning = find_stage(plan_needs("msmarco-bow", objective="bow-mae"), "finetune mined")
    floor, expected = costs.estimate_seconds(finetuning, H200)
    assert floor / 60 == pytest.approx(22, rel=0.05)
    # At 45 % of the peak, with 80 of 144 tokens real, and 9 of 32.
    real = (9 + 16 * 80) / (32 + 16 * 144)
    assert expected == pytest.approx(floor / 0.45 / real, rel=1e-6)


def test_a_small_track_by_hand(small_board: Path) -> None:
    needs = plan_needs("small", board=small_board)
    assert stage_names(needs) == ["tokenise", "pretrain", "finetune in-batch", "test"]
    assert needs.missing == {}
    # 10 words are 16 tokens: 1.4 each, and [CLS] and [SEP]; 5 words are 9.
    assert find_stage(needs, "tokenise").items[0].tokens == pytest.approx(4 * 16 + 2 * 9)
    # The base: 2 layers, 128 and 512 wide, 8192 words. A layer at 16 tokens: 2 * (4 * 128**2 + 2 * 128 * 512) +
    # 4 * 16 * 128 = 401,408; the head: 2 * (128**2 + 128 * 8192) = 2,129,920.
    pretraining = find_stage(needs, "pretrain")
    assert pretraining.items[0].tokens == pytest.approx(10 * 2 * 16)
    flops_per_token = 3 * (2 * 401_408 + 0.3 * 2_129_920 + 401_408 + 2_129_920)
    assert pretraining.items[0].flops == pytest.approx(320 * flops_per_token)
    assert costs.estimate_seconds(pretraining, BOX) == pytest.approx((3.8141952, 3.8141952 / 0.5 / 0.99))


def test_small_finetuning_and_test_by_hand(small_board: Path) -> None:
    needs = plan_needs("small", board=small_board)
    # 5 epochs of one batch of 2; a layer at 9 tokens: 393,216 + 4 * 9 * 128.
    finetuning = find_stage(needs, "finetune in-batch")
    (item,) = finetuning.items
    assert item.tokens == pytest.approx(10 * (9 + 16))
    assert item.flops == pytest.approx(10 * 3 * 2 * (9 * 397_824 + 16 * 401_408))
    assert item.real == pytest.approx(25 / 44)
    assert costs.estimate_seconds(finetuning, BOX) == pytest.approx((0.60017664, 0.60017664 / 0.25 / (25 / 44)))
    testing = find_stage(needs, "test")
    embedding = 2 * (2 * 9 * 397_824 + 4 * 16 * 401_408)
    searching = 2 * 2 * 4 * 128
    assert sum(item.flops for item in testing.items) == pytest.approx(embedding + searching)
    # Vectors of 128 numbers in 4 bytes, and 48 bytes for each of 2 * 4 hits.
    assert testing.disk == 4 * 512 + 2 * 512 + 48 * 8


def test_examples_are_queries_or_judgements(small_board: Path) -> None:
    # q0 has two relevant documents and q1 one: 3 examples, of which an epoch takes one batch of 3.
    overrides = ("finetune.examples=judgement", "finetune.batch=3")
    (item,) = find_stage(plan_needs("small", *overrides, board=small_board), "finetune in-batch").items
    assert item.tokens == pytest.approx(5 * 3 * 25)


def test_a_round_embeds_documents_once(small_board: Path) -> None:
    overrides = ("mine.depth=2", "finetune.negatives=1", "evaluate.rounds=every")
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[3:] == ["mine", "finetune mined", "test"]
    # The first round's encoder has embedded the documents for mining. The test embeds them with the second alone.
    encoded = [item.tokens for item in find_stage(needs, "test").items if item.kind == "encode"]
    assert encoded == pytest.approx([18, 18, 64])
    (item,) = find_stage(needs, "finetune mined").items
    assert item.tokens == pytest.approx(10 * (9 + 2 * 16))


def test_a_validation_set_adds_a_stage(small_board: Path) -> None:
    dataset = f"{small_board.parent / 'data'}:train"
    overrides = ("mine.depth=2", "finetune.negatives=1", f"evaluate.select={dataset}")
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[-2:] == ["choose", "test"]


def test_terms_are_scored_and_stored(small_board: Path) -> None:
    overrides = ("representation.dense=32", "representation.terms=8")
    testing = find_stage(plan_needs("small", *overrides, objective="dupmae", board=small_board), "test")
    # The head scores every token, with 2,129,920 FLOPs more.
    query_flops = 2 * 9 * (2 * 397_824 + 2_129_920)
    document_flops = 4 * 16 * (2 * 401_408 + 2_129_920)
    encoded = sum(item.flops for item in testing.items if item.kind == "encode")
    assert encoded == pytest.approx(query_flops + document_flops)
    # Queries keep all 8,192 words, documents 8 weights and words.
    query_bytes = 2 * 4 * (32 + 8192)
    document_bytes = 4 * (4 * 32 + 8 * 8)
    assert testing.disk == query_bytes + document_bytes + 48 * 8


def test_stored_in_16_bits_are_the_dense_numbers_alone(small_board: Path) -> None:
    overrides = ("representation.dense=32", "representation.terms=8", "representation.stored=bfloat16")
    testing = find_stage(plan_needs("small", *overrides, objective="dupmae", board=small_board), "test")
    query_bytes = 2 * (2 * 32 + 4 * 8192)
    document_bytes = 4 * (2 * 32 + 8 * 8)
    assert testing.disk == query_bytes + document_bytes + 48 * 8


def test_an_entrant_without_pretraining_has_no_such_stage(small_board: Path) -> None:
    needs = plan_needs("small", objective="bert", board=small_board)
    assert stage_names(needs) == ["tokenise", "finetune in-batch", "test"]


def test_adaptation_is_a_stage(small_board: Path) -> None:
    corpus = f'adapt.corpus=["{small_board.parent / "data"}"]'
    overrides = (corpus, "adapt.steps=3", "adapt.batch=4", "adapt.learning_rate=1e-4")
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[:3] == ["tokenise", "pretrain", "adapt"]
    assert find_stage(needs, "adapt").items[0].tokens == pytest.approx(3 * 4 * 16)


def test_a_small_track_fits(small_board: Path) -> None:
    assert advice.summarise_shortage(plan_needs("small", board=small_board), BOX) == ""


def test_published_collections() -> None:
    passages = look_up("msmarco-passage/train")
    assert (passages.documents, passages.judged) == (8_841_823, 502_939)
    wikibook = look_up("wikibook")
    assert wikibook.documents * wikibook.tokens == pytest.approx(34e9 / 8, rel=0.01)
    with pytest.raises(RetrobenchError, match="Unknown dataset 'no-such'"):
        look_up("no-such")


def test_a_collection_that_is_built() -> None:
    titled = look_up("msmarco-titled:train")
    assert (titled.documents, titled.judgements, titled.to_build) == (8_841_823, 532_761, True)
    assert titled.missing["marco.tar.gz"] == 1_140_510_742
    assert look_up("msmarco-titled:train", with_queries=False).queries == 0


def test_collections_of_beir() -> None:
    tested = plan_needs("beir").tested
    assert len(tested) == 25
    assert len({collection.corpus for collection in tested}) == 25
    # Sizes in the table of BEIR's page, CQADupStack's 12 forums together.
    published = [171_332, 3_633, 2_681_468, 5_233_329, 57_638, 8_674, 382_545, 457_199, 522_931, 4_635_922, 25_657]
    published += [5_416_568, 5_416_593, 5_183]
    assert sum(collection.documents for collection in tested) == sum(published)


def test_shapes_of_models() -> None:
    assert shape_of("retrobench/base", Model("")) == (Shape(2, 128, 512, 8192, 256), "")
    assert shape_of("google-bert/bert-base-uncased", Model("")) == (BERT_BASE, "")
    shape, assumption = shape_of("somebody/encoder", Model(""))
    assert shape == BERT_BASE
    assert assumption.startswith("somebody/encoder: ")
    assert "bert-base-uncased" in assumption


def test_the_shape_of_random_weights() -> None:
    random = Model("retrobench/tokenizer", layers=3, hidden=64, intermediate=96, positions=77)
    assert shape_of("retrobench/tokenizer", random) == (Shape(3, 64, 96, 8192, 77), "")


@pytest.mark.parametrize("config", [None, "no JSON", "{}", json.dumps({"num_hidden_layers": "many"})])
def test_a_model_folder_without_a_usable_config(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(RetrobenchError, match=r"no config\.json"):
        shape_of(str(tmp_path), Model(""))
