"""SimLM: a generator replaces words, and a decoder recovers the text from its sentence vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from annotated_types import Ge, Interval

from retrobench import Context, ModelFolder, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone, Layers, Pretraining, WordGenerator


@dataclass(frozen=True)
class SimLM:
    """A generator replaces words; the encoder, and a decoder fed with its [CLS] vector, recover every word.

    The decoder is a copy of the encoder's last layers and reads another view, whose replaced words include the
    encoder's. Adds decoder and generator, thrown away in the export. Loss: cross-entropy of encoder + decoder over all
    words, replaced or not.

    The frozen generator is in evaluation mode; the released one keeps its dropout. Titles stand before texts, as
    `pretrain.titles` says. The released code pairs both with a separator and token types.
    """

    # A masked language model with the base's vocabulary; the base itself where none is named.
    generator: ModelFolder = ModelFolder("")
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3  # scripts/train_rlm.sh
    decoder_mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.5  # scripts/train_rlm.sh
    decoder_layers: Annotated[int, Ge(1)] = 2  # config.py
    train_generator: bool = False  # train_rlm.sh freezes it; table 12: training it changes nothing
    generator_weight: Annotated[float, Ge(0)] = 0.2  # of a trained generator's loss, config.py

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "simlm"
    paper: ClassVar[str] = "Wang et al., ACL 2023, arXiv:2207.02578"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {"generator": "google/electra-base-generator"},
        # Section 4.1 and table 11. Equation 2 averages over special tokens too, the code leaves them out.
        "paper": {"generator": "google/electra-base-generator"},
    }

    def __post_init__(self) -> None:
        if self.decoder_mask_ratio < self.mask_ratio:
            raise ValueError("decoder_mask_ratio must be at least mask_ratio, for it counts the encoder's words too")

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import hide, pack, select_words, special_ids

        packed = pack(passages, vocabulary, max_length)
        masked = select_words(packed, vocabulary, self.mask_ratio, generator)
        further = (self.decoder_mask_ratio - self.mask_ratio) / (1 - self.mask_ratio)
        decoder_masked = masked | select_words(packed, vocabulary, further, generator)
        # Every masked token shows [MASK] to the generator, as train_rlm.sh sets it.
        batch = hide(packed, masked, vocabulary, generator, "mask")
        decoder_batch = hide(packed, decoder_masked, vocabulary, generator, "mask")
        content = (packed.words >= 0) & ~special_ids(vocabulary)[packed.input_ids]
        positions = content.flatten().nonzero().flatten()
        return {
            **batch,
            "masked": masked,
            "decoder_ids": decoder_batch["input_ids"],
            "decoder_masked": decoder_masked,
            "decoder_masked_positions": decoder_batch["masked_positions"],
            "content_positions": positions,
            "content_ids": packed.input_ids.flatten()[positions],
        }

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from retrobench.model import Layers, Pretraining, WordGenerator

        generator = WordGenerator(context.load(self.generator), context.max_length)
        decoder = Layers(backbone, self.decoder_layers, copy=True)
        if self.train_generator:
            return Pretraining(backbone, self.step, decoder=decoder, generator=generator)
        return Pretraining(backbone, self.step, decoder=decoder, kept={"generator": generator})

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masked: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_ids: torch.Tensor,
        decoder_ids: torch.Tensor,
        decoder_masked: torch.Tensor,
        decoder_masked_positions: torch.Tensor,
        content_positions: torch.Tensor,
        content_ids: torch.Tensor,
        replaced_ids: torch.Tensor | None = None,
        decoder_replaced_ids: torch.Tensor | None = None,
    ) -> Step:
        """Compute the losses; the generator draws both replaced views [B, L] unless they are given."""
        import torch

        from retrobench.model import token_loss

        generator = cast("WordGenerator", model.generator)
        losses = {}
        guesses = generator.hidden(input_ids, attention_mask)
        if self.train_generator:
            loss = token_loss(generator, guesses, masked_positions, masked_ids)
            losses["generator"] = self.generator_weight * loss
        if replaced_ids is None:
            replaced_ids = self._replace(model, input_ids, guesses, masked, masked_positions)
        if decoder_replaced_ids is None:
            guesses = generator.hidden(decoder_ids, attention_mask)
            decoder_replaced_ids = self._replace(model, decoder_ids, guesses, decoder_masked, decoder_masked_positions)

        hidden = model.backbone.hidden(replaced_ids, attention_mask)  # [B, L, D]
        words = model.backbone.embed(decoder_replaced_ids)
        view = torch.cat([hidden[:, :1].to(words.dtype), words[:, 1:]], dim=1)
        recovered = cast("Layers", model.decoder)(view, attention_mask)
        losses["encoder"] = token_loss(model.backbone, hidden, content_positions, content_ids)
        losses["decoder"] = token_loss(model.backbone, recovered, content_positions, content_ids)

        shown_ids = replaced_ids.flatten().index_select(0, content_positions)
        changed = (shown_ids != content_ids).sum()
        return Step(losses, {"replaced": changed / attention_mask.sum()})

    def _replace(
        self,
        model: Pretraining,
        input_ids: torch.Tensor,
        guesses: torch.Tensor,
        masked: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Return ids [B, L] with draws of the generator, whose hidden states are `guesses`, at masked tokens."""
        from retrobench.model import draw_words, fill_in

        words = draw_words(cast("WordGenerator", model.generator), guesses, positions, len(model.backbone.word_matrix))
        return fill_in(input_ids, masked, words)


@hookimpl
def retrobench_objectives() -> Sequence[type[SimLM]]:
    return [SimLM]
