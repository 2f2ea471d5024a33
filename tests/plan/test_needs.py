"""The needs of a track, against arithmetic by hand and against the known figures of published recipes."""

from __future__ import annotations

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
from retrobench.plan.parts import parts_of

MSMARCO_DOCUMENTS = 8_841_823
MSMARCO_TOKENS = MSMARCO_DOCUMENTS * 80


@pytest.fixture
def small_board(tmp_path: Path) -> Path:
    return write_small_board(tmp_path)


@pytest.mark.parametrize(
    ("objective", "ratio", "mflops_at_150", "mflops_at_512"),
    [
        # MFLOP per token of BERT-base. One layer at 150 tokens: 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 150 * 768 =
        # 14.616576; twelve, three times: 526.2. One position of the head: 3 * 2 * (768**2 + 768 * 30522) = 144.2.
        ("mlm", 0.15, 547.8, 587.9),  # 526.2 + 0.15 * 144.2
        ("mlm", 0.3, 569.5, 609.5),
        ("retromae", 0.3, 757.5, 800.9),  # 526.2 + 0.3 * 144.2 + 43.8 of the decoder + 144.2
        ("bow-mae", 0.3, 570.4, 609.8),  # 526.2 + 0.3 * 144.2 + 144.2 / 150
        ("dupmae", 0.3, 858.4, 901.8),  # 526.2 + 144.2 + 43.8 + 144.2
        ("condenser", 0.15, 657.2, 703.9),  # 526.2 + 2 * 0.15 * 144.2 + 2 * 43.8 of the head
        ("simlm", 0.3, 1253.1, 1326.5),  # 526.2 + 2 * 144.2 + 2 * 43.8 + 2 * 175.4 of the generator
        ("contriever", 0.3, 701.6, 755.0),  # 526.2 + 175.4 of the keys
        ("a-strangers", 0.3, 569.5, 609.5),  # counted as masked language modelling
    ],
)
def test_flops_of_a_token_under_each_objective(
    objective: str, ratio: float, mflops_at_150: float, mflops_at_512: float
) -> None:
    flops_at_150 = arithmetic.pretraining(BERT_BASE, 150, parts_of(objective, {"mask_ratio": ratio}))
    flops_at_512 = arithmetic.pretraining(BERT_BASE, 512, parts_of(objective, {"mask_ratio": ratio}))
    assert flops_at_150 / 1e6 == pytest.approx(mflops_at_150, abs=0.05)
    assert flops_at_512 / 1e6 == pytest.approx(mflops_at_512, abs=0.05)


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
    ("objective", "length", "tokens", "hours"),
    [
        ("retromae", 512, 34e9, 9.6),
        ("bow-mae", 512, 140e3 * 2048 * 512, 31.5),
        ("bow-mae", 144, 80e3 * 2048 * 144, 4.7),
    ],
)
def test_floors_of_published_pretraining_on_one_h200(objective: str, length: int, tokens: float, hours: float) -> None:
    """Each is within 5 % of a figure that was worked out independently: bf16 at 790 TFLOP/s."""
    flops_per_token = arithmetic.pretraining(BERT_BASE, length, parts_of(objective, {"mask_ratio": 0.3}))
    seconds = floor_seconds("pretrain", tokens * flops_per_token)
    assert seconds / 3600 == pytest.approx(hours, rel=0.05)


def test_floors_of_published_finetuning_and_encoding_on_one_h200() -> None:
    """They are figures worked out independently, too: 39 minutes and 155 seconds."""
    finetuning = 23.6e3 * 64 * 16 * 144 * arithmetic.training(BERT_BASE, 144)
    encoding = MSMARCO_TOKENS * arithmetic.encoding(BERT_BASE, 80)
    assert floor_seconds("finetune", finetuning) == pytest.approx(39 * 60, rel=0.05)
    assert floor_seconds("encode", encoding) == pytest.approx(155, rel=0.05)


def test_sizes_of_ms_marco_on_one_h200() -> None:
    search_flops = arithmetic.searching(6_980, MSMARCO_DOCUMENTS, 768)
    vectors = arithmetic.vector_bytes(MSMARCO_DOCUMENTS, 768)
    activations = arithmetic.activation_bytes(BERT_BASE, 64 * 16 * 80)
    assert floor_seconds("search", search_flops) == pytest.approx(0.12, rel=0.05)
    assert floor_seconds("tokenise", tokens=MSMARCO_TOKENS) == pytest.approx(583, rel=0.05)
    assert vectors == pytest.approx(27.2e9, rel=0.05)
    assert activations == pytest.approx(50e9, rel=0.05)


def test_the_stages_of_msmarco_have_those_floors() -> None:
    needs = plan_needs("msmarco")
    pretraining = find_stage(needs, "pretrain")
    assert pretraining.items[0].tokens == pytest.approx(34e9, rel=0.01)
    pretraining_seconds = costs.estimate_seconds(pretraining, H200)
    assert pretraining_seconds.floor / 3600 == pytest.approx(9.6, rel=0.05)
    # An encoder in 32 bits, and its last checkpoint with two moments.
    assert pretraining.disk == 16 * needs.shape.parameters
    mining = find_stage(needs, "mine")
    documents = max(mining.items, key=lambda item: item.tokens)
    assert floor_seconds("encode", documents.flops) == pytest.approx(155, rel=0.05)
    # The training queries' vectors and 200 candidates each come on top of the documents' vectors.
    assert mining.disk == pytest.approx(27.2e9, rel=0.1)


def test_padding_makes_finetuning_slower() -> None:
    # 64 queries with 16 passages for 3 epochs. The 22 minutes are without the 9 tokens of a query.
    needs = plan_needs("msmarco-bow", objective="bow-mae")
    finetuning = find_stage(needs, "finetune mined")
    floor, expected = costs.estimate_seconds(finetuning, H200)
    assert floor / 60 == pytest.approx(22, rel=0.05)
    # At 45 % of the peak, with 80 of 144 tokens real, and 9 of 32.
    real_tokens = 9 + 16 * 80
    padded_tokens = 32 + 16 * 144
    real = real_tokens / padded_tokens
    assert expected == pytest.approx(floor / 0.45 / real, rel=1e-6)


# The small track on a machine of 1 GFLOP/s. Its base has 2 layers, 128 and 512 wide, and 8,192 words. 10 words of a
# document are 16 tokens: 1.4 each, and [CLS] and [SEP]; 5 words of a query are 9.
HEAD_FLOPS = 2 * (128**2 + 128 * 8192)
LAYER_FLOPS_AT_16 = 2 * (4 * 128**2 + 2 * 128 * 512) + 4 * 16 * 128
LAYER_FLOPS_AT_9 = 2 * (4 * 128**2 + 2 * 128 * 512) + 4 * 9 * 128
DOCUMENT_FLOPS = 16 * 2 * LAYER_FLOPS_AT_16
QUERY_FLOPS = 9 * 2 * LAYER_FLOPS_AT_9
HITS_BYTES = 2 * 4 * 48  # of two queries with four documents each


def encode_items(stage: StageNeeds) -> list[WorkItem]:
    return [item for item in stage.items if item.kind == "encode"]


def test_a_small_track_by_hand(small_board: Path) -> None:
    needs = plan_needs("small", board=small_board)
    assert stage_names(needs) == ["tokenise", "pretrain", "finetune in-batch", "test"]
    assert needs.missing == {}
    (tokenising,) = find_stage(needs, "tokenise").items
    assert tokenising.tokens == pytest.approx(4 * 16 + 2 * 9)


def test_small_pretraining_by_hand(small_board: Path) -> None:
    """10 steps of 2 documents; the decoder has one layer, and reconstructs every token."""
    needs = plan_needs("small", board=small_board)
    pretraining = find_stage(needs, "pretrain")
    (item,) = pretraining.items
    encoder = 2 * LAYER_FLOPS_AT_16 + 0.3 * HEAD_FLOPS
    decoder = LAYER_FLOPS_AT_16 + HEAD_FLOPS
    tokens = 10 * 2 * 16
    assert item.tokens == pytest.approx(tokens)
    assert item.flops == pytest.approx(tokens * 3 * (encoder + decoder))
    floor, expected = costs.estimate_seconds(pretraining, BOX)
    assert floor == pytest.approx(3.8141952)
    assert expected == pytest.approx(3.8141952 / 0.5 / 0.99)


def test_small_finetuning_by_hand(small_board: Path) -> None:
    """5 epochs of one batch of 2 queries, padded to 12 tokens and their documents to 32."""
    needs = plan_needs("small", board=small_board)
    finetuning = find_stage(needs, "finetune in-batch")
    (item,) = finetuning.items
    real = (9 + 16) / (12 + 32)
    assert item.tokens == pytest.approx(10 * (9 + 16))
    assert item.flops == pytest.approx(10 * 3 * (QUERY_FLOPS + DOCUMENT_FLOPS))
    assert item.real == pytest.approx(real)
    floor, expected = costs.estimate_seconds(finetuning, BOX)
    assert floor == pytest.approx(0.60017664)
    assert expected == pytest.approx(0.60017664 / 0.25 / real)


def test_small_test_by_hand(small_board: Path) -> None:
    """Vectors have 128 numbers of 4 bytes."""
    needs = plan_needs("small", board=small_board)
    testing = find_stage(needs, "test")
    embedding = 2 * QUERY_FLOPS + 4 * DOCUMENT_FLOPS
    searching = 2 * 2 * 4 * 128
    assert sum(item.flops for item in testing.items) == pytest.approx(embedding + searching)
    assert testing.disk == (2 + 4) * 128 * 4 + HITS_BYTES


def test_examples_are_queries_or_judgements(small_board: Path) -> None:
    # q0 has two relevant documents and q1 one: 3 examples, of which an epoch takes one batch of 3.
    needs = plan_needs("small", "finetune.examples=judgement", "finetune.batch=3", board=small_board)
    (item,) = find_stage(needs, "finetune in-batch").items
    assert item.tokens == pytest.approx(5 * 3 * 25)


def test_a_round_embeds_documents_once(small_board: Path) -> None:
    overrides = ("mine.depth=2", "finetune.negatives=1", "evaluate.rounds=every")
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[3:] == ["mine", "finetune mined", "test"]
    # The first round's encoder has embedded the documents for mining. The test embeds them with the second alone.
    testing = find_stage(needs, "test")
    encoded_tokens = [item.tokens for item in encode_items(testing)]
    assert encoded_tokens == pytest.approx([18, 18, 64])
    (finetuning,) = find_stage(needs, "finetune mined").items
    assert finetuning.tokens == pytest.approx(10 * (9 + 2 * 16))


def test_a_validation_set_adds_a_stage(small_board: Path) -> None:
    dataset = f"{small_board.parent / 'data'}:train"
    overrides = ("mine.depth=2", "finetune.negatives=1", f"evaluate.select={dataset}")
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[-2:] == ["choose", "test"]


def test_probes_are_a_stage(small_board: Path) -> None:
    """Of 10 steps two are probed: 3 documents embedded, 2 steps on 2 queries, and the search of 3 documents for 2."""
    dataset = f"{small_board.parent / 'data'}:train"
    overrides = ["pretrain.probe_every=4", "pretrain.probe_steps=2", "pretrain.probe_documents=3"]
    overrides += ['evaluate.datasets=["retrobench/squad/test"]', f"pretrain.probe_dataset={dataset}"]
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[:4] == ["tokenise", "pretrain", "pretrain probes", "finetune in-batch"]
    probing = find_stage(needs, "pretrain probes")
    assert [item.kind for item in probing.items] == ["encode", "finetune", "encode", "encode", "search"]
    tokens = [2 * 3 * 16, 2 * 4 * (9 + 16), 2 * 2 * 9, 2 * 3 * 16]
    assert [item.tokens for item in probing.items[:4]] == pytest.approx(tokens)
    pretraining, finetuning = find_stage(needs, "pretrain"), find_stage(needs, "finetune in-batch")
    assert pretraining.step is not None
    assert probing.device == pretraining.step.fixed_bytes + finetuning.device
    plain = plan_needs("small", *overrides[3:], board=small_board)
    assert costs.estimate_seconds(find_stage(plain, "pretrain"), BOX) == costs.estimate_seconds(pretraining, BOX)


def test_terms_are_scored_and_stored(small_board: Path) -> None:
    overrides = ("representation.dense=32", "representation.terms=8")
    needs = plan_needs("small", *overrides, objective="dupmae", board=small_board)
    testing = find_stage(needs, "test")
    # The head scores every token.
    query_flops = QUERY_FLOPS + 9 * HEAD_FLOPS
    document_flops = DOCUMENT_FLOPS + 16 * HEAD_FLOPS
    encoding_flops = sum(item.flops for item in encode_items(testing))
    assert encoding_flops == pytest.approx(2 * query_flops + 4 * document_flops)
    # Queries keep all 8,192 words, documents 8 weights and words.
    query_bytes = 4 * (32 + 8192)
    document_bytes = 4 * 32 + 8 * 8
    assert testing.disk == 2 * query_bytes + 4 * document_bytes + HITS_BYTES


def test_stored_in_16_bits_are_the_dense_numbers_alone(small_board: Path) -> None:
    overrides = ("representation.dense=32", "representation.terms=8", "representation.stored=bfloat16")
    needs = plan_needs("small", *overrides, objective="dupmae", board=small_board)
    testing = find_stage(needs, "test")
    query_bytes = 2 * 32 + 4 * 8192
    document_bytes = 2 * 32 + 8 * 8
    assert testing.disk == 2 * query_bytes + 4 * document_bytes + HITS_BYTES


def test_an_entrant_without_pretraining_has_no_such_stage(small_board: Path) -> None:
    needs = plan_needs("small", objective="bert", board=small_board)
    assert stage_names(needs) == ["tokenise", "finetune in-batch", "test"]


def test_adaptation_is_a_stage(small_board: Path) -> None:
    corpus = f'adapt.corpus=["{small_board.parent / "data"}"]'
    overrides = (corpus, "adapt.steps=3", "adapt.batch=4", "adapt.learning_rate=1e-4")
    needs = plan_needs("small", *overrides, board=small_board)
    assert stage_names(needs)[:3] == ["tokenise", "pretrain", "adapt"]
    (adapting,) = find_stage(needs, "adapt").items
    assert adapting.tokens == pytest.approx(3 * 4 * 16)


def test_a_small_track_fits(small_board: Path) -> None:
    needs = plan_needs("small", board=small_board)
    assert advice.summarise_shortage(needs, BOX) == ""


def test_published_collections() -> None:
    passages = look_up("msmarco-passage/train")
    assert passages.documents == MSMARCO_DOCUMENTS
    assert passages.judged == 502_939
    wikibook = look_up("wikibook")
    assert wikibook.documents * wikibook.tokens == pytest.approx(34e9 / 8, rel=0.01)
    with pytest.raises(RetrobenchError, match="Unknown dataset 'no-such'"):
        look_up("no-such")


def test_a_collection_that_is_built() -> None:
    titled = look_up("msmarco-titled:train")
    assert titled.documents == MSMARCO_DOCUMENTS
    assert titled.judgements == 532_761
    assert titled.to_build is True
    assert titled.missing["marco.tar.gz"] == 1_140_510_742
    without_queries = look_up("msmarco-titled:train", with_queries=False)
    assert without_queries.queries == 0


def test_collections_of_beir() -> None:
    tested = plan_needs("beir").tested
    corpora = {collection.corpus for collection in tested}
    documents = sum(collection.documents for collection in tested)
    assert len(tested) == 25
    assert len(corpora) == 25
    # Sizes in the table of BEIR's page, CQADupStack's 12 forums together.
    published = [171_332, 3_633, 2_681_468, 5_233_329, 57_638, 8_674, 382_545, 457_199, 522_931, 4_635_922, 25_657]
    published += [5_416_568, 5_416_593, 5_183]
    assert documents == sum(published)


def test_shapes_of_models() -> None:
    pretrained = Model("")
    small = Shape(layers=2, hidden=128, intermediate=512, vocabulary=8192, positions=256)
    assert shape_of("retrobench/base", pretrained) == (small, "")
    assert shape_of("google-bert/bert-base-uncased", pretrained) == (BERT_BASE, "")
    shape, assumption = shape_of("somebody/encoder", pretrained)
    assert shape == BERT_BASE
    assert assumption.startswith("somebody/encoder: ")
    assert "bert-base-uncased" in assumption


def test_the_shape_of_random_weights() -> None:
    random = Model("retrobench/tokenizer", layers=3, hidden=64, intermediate=96, positions=77)
    shape = Shape(layers=3, hidden=64, intermediate=96, vocabulary=8192, positions=77)
    assert shape_of("retrobench/tokenizer", random) == (shape, "")


@pytest.mark.parametrize("config", [None, "no JSON", "{}", '{"num_hidden_layers": "many"}'])
def test_a_model_folder_without_a_usable_config(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(RetrobenchError, match=r"no config\.json"):
        shape_of(str(tmp_path), Model(""))
