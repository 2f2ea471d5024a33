"""CoT-MAE: a span's [CLS] vector helps to rebuild another span of the document, and the other's helps to rebuild it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import numpy as np
    import torch

    from retrobench.model import Backbone, Pretraining, Spans

CONTEXTS = ("nearby", "overlap", "random_sampled")
FARTHEST = 100  # spans from the anchor to a random one (make_cotmae_data.py:44)


@dataclass(frozen=True)
class CoTMAE:
    """Two new layers predict a span's masked words from its other words and the [CLS] vector of a span in its context.

    Adds the layers, thrown away in the export. Loss: masked language modelling by the encoder + by the layers, both
    with weight 1. An example is a span of a document and its context, and each is the other's context in turn.
    """

    # Sources are files of caskcsg/ir/cotmae. Departures: spans and contexts are drawn anew at each visit, not once. A
    # span ends before the sentence that would exceed max_length and not behind it, so no random window is cut out. A
    # document of one span is cut in two, not dropped.
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3  # README.md:73
    decoder_mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.45  # README.md:74
    decoder_layers: Annotated[int, Ge(1)] = 2  # README.md:77
    decoder_weight: Annotated[float, Ge(0)] = 1.0  # arguments.py:124
    # The span before or behind; half of the anchor's sentences at most, and the following text; any other span; or
    # "mixed", one of the three for each example (data.py:190-194).
    context: Literal["mixed", "nearby", "overlap", "random_sampled"] = "mixed"
    short_spans: Annotated[float, Interval(ge=0, le=1)] = 0.15  # make_cotmae_data.py:82-85: their share

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "cot-mae"
    paper: ClassVar[str] = "Wu et al., AAAI 2023, arXiv:2208.07670"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    # No preset "paper": no value of the paper is known that differs from the released ones.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"as_released": {}}

    def examples(self, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        from retrobench.model import span_examples

        return span_examples(lengths, max_length)

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return a batch of two rows for each passage, a span and its context."""
        from retrobench.model import cut_spans

        most = max_length - 2
        texts: list[Passage] = []
        for passage in passages:
            spans = cut_spans(passage, vocabulary, most, generator, self.short_spans)
            anchor = _draw(len(spans), generator)
            texts += [spans.span(anchor), self._draw_context(spans, anchor, most, generator)]
        return self.pair_batch(texts, vocabulary, max_length, generator)

    def _draw_context(self, spans: Spans, anchor: int, most: int, generator: torch.Generator) -> Passage:
        """Return a context of the span `anchor`."""
        kind: str = self.context
        if kind == "mixed":
            kind = CONTEXTS[_draw(len(CONTEXTS), generator)]
        if kind == "overlap":
            return _overlap(spans, anchor, most, generator)
        return _other_span(spans, anchor, FARTHEST if kind == "random_sampled" else 1, generator)

    def pair_batch(
        self, texts: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return a batch whose encoder reads the texts A1 B1 A2 B2 ..., and the decoder B1 A1 B2 A2 ..., masked anew.

        Tokens are counted where the encoder reads them, as for other objectives with a decoder. So the decoder's mask,
        which would count the same texts again, is not called an attention mask.
        """
        import torch

        from retrobench.model import masked_batch, pack

        packed = pack(texts, vocabulary, max_length)
        siblings = torch.arange(len(texts)) ^ 1
        swapped = type(packed)(*(tensor[siblings] for tensor in packed))
        batch = masked_batch(packed, vocabulary, self.mask_ratio, generator, budget="content")
        decoded = masked_batch(swapped, vocabulary, self.decoder_mask_ratio, generator, budget="content")
        batch["decoder_mask"] = decoded.pop("attention_mask")
        return batch | {f"decoder_{key}": tensor for key, tensor in decoded.items()}

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from retrobench.model import Layers, Pretraining

        return Pretraining(backbone, self.step, fresh={"decoder": Layers(backbone, self.decoder_layers)})

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_ids: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        decoder_mask: torch.Tensor,
        decoder_masked_positions: torch.Tensor,
        decoder_masked_ids: torch.Tensor,
    ) -> Step:
        import torch

        from retrobench.model import token_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)  # [2B, L, D]
        words = model.backbone.embed(decoder_input_ids)[:, 1:]
        rows = torch.cat([hidden[:, :1], words], dim=1)
        decoded = model.get_submodule("decoder")(rows, decoder_mask)
        decoder_mlm = token_loss(model.backbone, decoded, decoder_masked_positions, decoder_masked_ids)
        losses = {
            "mlm": token_loss(model.backbone, hidden, masked_positions, masked_ids),
            "decoder": self.decoder_weight * decoder_mlm,
        }
        return Step(losses, {})


def _draw(count: int, generator: torch.Generator) -> int:
    """Return a random number below `count`."""
    import torch

    return int(torch.randint(count, (), generator=generator))


def _other_span(spans: Spans, anchor: int, farthest: int, generator: torch.Generator) -> Passage:
    """Return another span, at most `farthest` spans from the anchor."""
    first = max(0, anchor - farthest)
    end = min(len(spans), anchor + farthest + 1)
    number = first + _draw(end - first - 1, generator)
    if number >= anchor:
        number += 1
    return spans.span(number)


def _overlap(spans: Spans, anchor: int, most: int, generator: torch.Generator) -> Passage:
    """Return the anchor's last sentences and the text behind them, or the last span's first and the text before them.

    The sentences are at most half of the anchor's, but at least one, and the text is of `most` tokens in whole words.
    """
    sentences = spans.sentences_of(anchor)
    shared = 1 + _draw(max(1, len(sentences) // 2), generator)
    if anchor + 1 < len(spans):
        first = int(sentences[-shared])
        return spans.text(first, max(spans.word_before(first + most), int(spans.edges[anchor + 1])))
    end = int([*sentences, spans.edges[-1]][shared])
    return spans.text(min(spans.word_behind(end - most), int(spans.edges[anchor])), end)


@hookimpl
def retrobench_objectives() -> Sequence[type[CoTMAE]]:
    return [CoTMAE]
