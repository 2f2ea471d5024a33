"""A transformers masked language model whose parts have the same names in every family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from retrobench.errors import RetrobenchError, unknown
from retrobench.model.internals import attention_of

__all__ = ["FAMILIES", "Backbone", "WordGenerator"]

Mask = Tensor | dict[str, Tensor]  # for all layers, or for each type of layer


def _added(visible: Tensor) -> Tensor:
    """Return numbers that the eager kernel adds to scores, [B, 1, L, L] float32, from a mask of visible tokens."""
    hidden = torch.finfo(torch.float32).min
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, hidden)


class _Bert:
    """BERT: absolute positions, `cls.predictions` as head."""

    def embeddings(self, lm: Any) -> nn.Module:
        return cast(nn.Module, lm.base_model.embeddings)

    def positions(self, lm: Any) -> Tensor | None:
        return cast(Tensor, lm.base_model.embeddings.position_embeddings.weight)

    def transform(self, lm: Any, hidden: Tensor) -> Tensor:
        return cast(Tensor, lm.cls.predictions.transform(hidden))

    def layers(self, lm: Any) -> Iterable[nn.Module]:
        return cast("Iterable[nn.Module]", lm.base_model.encoder.layer)

    def mask(self, lm: Any, attention_mask: Tensor) -> Mask:
        """Return the mask to give the model: [B, L], or on a GPU its own of every layer, [B, 1, L, L] bool.

        transformers reads a mask [B, L] to see whether it hides anything. On a GPU that read would wait for the device.
        """
        if attention_mask.device.type == "cpu" or attention_of(lm) != "sdpa":
            return attention_mask
        return self._device_mask(lm, attention_mask)

    def layer_mask(self, lm: Any, attention_mask: Tensor) -> Mask:
        """Return the mask that a layer itself takes, from a mask [B, L]; other kernels than these two take that."""
        kernel = attention_of(lm)
        if kernel not in ("eager", "sdpa"):
            return attention_mask
        mask = self._device_mask(lm, attention_mask)
        if kernel == "sdpa":
            return mask
        if isinstance(mask, Tensor):
            return _added(mask)
        return {layer_type: _added(layer_mask) for layer_type, layer_mask in mask.items()}

    def run_layer(self, lm: Any, layer: Any, rows: Tensor, mask: Mask) -> Tensor:
        """Compute a layer under a mask of `layer_mask`, [B, L, D] -> [B, L, D]."""
        return cast(Tensor, layer(rows, mask))

    def _device_mask(self, lm: Any, attention_mask: Tensor) -> Mask:
        """Return whether each token sees each other token, [B, 1, L, L] bool."""
        texts, length = attention_mask.shape
        return attention_mask.bool()[:, None, None, :].expand(texts, 1, length, length)


class _Roberta(_Bert):
    """RoBERTa and XLM-R: positions start after the padding id, the head is `lm_head`."""

    def positions(self, lm: Any) -> Tensor | None:
        embeddings = lm.base_model.embeddings
        return cast(Tensor, embeddings.position_embeddings.weight[embeddings.padding_idx + 1 :])

    def transform(self, lm: Any, hidden: Tensor) -> Tensor:
        head = lm.lm_head
        return cast(Tensor, head.layer_norm(nn.functional.gelu(head.dense(hidden))))


class _ModernBert(_Bert):
    """ModernBERT: rotary positions inside the layers, so it has no table of positions."""

    def positions(self, lm: Any) -> Tensor | None:
        return None

    def transform(self, lm: Any, hidden: Tensor) -> Tensor:
        return cast(Tensor, lm.head(hidden))

    def layers(self, lm: Any) -> Iterable[nn.Module]:
        return cast("Iterable[nn.Module]", lm.base_model.layers)

    def _device_mask(self, lm: Any, attention_mask: Tensor) -> Mask:
        """Return a mask for each type of layer. A token of a local layer sees the tokens of its window alone."""
        length = attention_mask.shape[1]
        positions = torch.arange(length, device=attention_mask.device)
        distances = (positions[:, None] - positions).abs()  # [L, L]
        near = distances <= lm.config.sliding_window
        keys = attention_mask.bool()[:, None, None, :]
        # Both are whole tensors: a mask of other strides would be compiled anew.
        return {"full_attention": keys & (distances >= 0), "sliding_attention": keys & near}

    def run_layer(self, lm: Any, layer: Any, rows: Tensor, mask: Mask) -> Tensor:
        positions = torch.arange(rows.shape[1], device=rows.device)[None]
        rotations = lm.base_model.rotary_emb(rows, positions, layer.attention_type)
        layer_mask = mask[layer.attention_type] if isinstance(mask, dict) else mask
        return cast(Tensor, layer(rows, attention_mask=layer_mask, position_embeddings=rotations))


class _Electra(_Bert):
    """ELECTRA's generator: its head and its word matrix are narrower than its layers."""

    def transform(self, lm: Any, hidden: Tensor) -> Tensor:
        return cast(Tensor, lm.generator_predictions(hidden))


FAMILIES: dict[str, _Bert] = {
    "bert": _Bert(),
    "roberta": _Roberta(),
    "xlm-roberta": _Roberta(),
    "modernbert": _ModernBert(),
}


States = Tensor | tuple[Tensor, ...]  # hidden states [B, L, D], of the last layer or of several


class _Pass(NamedTuple):
    """The hidden states of a batch, computed by an earlier call."""

    input_ids: Tensor
    attention_mask: Tensor
    layers: tuple[int, ...] | None
    states: States


class Backbone(nn.Module):
    """An encoder and its masked-language-modelling head. D is the hidden size, V the rows of the word matrix."""

    role: ClassVar[str] = "base model"
    families: ClassVar[dict[str, _Bert]] = FAMILIES

    def __init__(self, lm: nn.Module) -> None:
        """Wrap `lm`, a transformers ...ForMaskedLM.

        Raises RetrobenchError if its family has no adapter.
        """
        super().__init__()
        config = cast(Any, lm).config
        if config.model_type not in self.families:
            next_step = f"Choose a {self.role} of one of these families."
            raise unknown("backbone family", config.model_type, self.families, next_step)
        self.lm = cast(Any, lm)
        self.config = config
        self._family = self.families[config.model_type]
        self._passes: list[_Pass] | None = None  # within `shared_passes`

    @overload
    def hidden(self, input_ids: Tensor, attention_mask: Tensor, layers: None = None) -> Tensor: ...

    @overload
    def hidden(self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]: ...

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int] | None = None) -> States:
        """Return the last hidden states, [B, L, D], of ids [B, L] under a mask [B, L] that is 1 at real tokens.

        With `layers` it returns the states behind each of these layers: 0 is the embedding, 6 the sixth layer, -1 the
        last. RetrobenchError for a layer that the model lacks.
        """
        key = None if layers is None else tuple(layers)
        for earlier in self._passes or ():
            if earlier.input_ids is input_ids and earlier.attention_mask is attention_mask and earlier.layers == key:
                return earlier.states
        states = self._compute(input_ids, attention_mask, key)
        if self._passes is not None:
            self._passes.append(_Pass(input_ids, attention_mask, key, states))
        return states

    def _compute(self, input_ids: Tensor, attention_mask: Tensor, layers: tuple[int, ...] | None) -> States:
        mask = self._family.mask(self.lm, attention_mask)
        if layers is None:
            output = self.lm.base_model(input_ids=input_ids, attention_mask=mask)
            return cast(Tensor, output.last_hidden_state)
        self._check_layers(layers)
        output = self.lm.base_model(input_ids=input_ids, attention_mask=mask, output_hidden_states=True)
        return tuple(output.hidden_states[layer] for layer in layers)

    @contextmanager
    def shared_passes(self) -> Iterator[None]:
        """Compute the states of the same tensors once within the context, for objectives that are trained together."""
        self._passes = []
        try:
            yield
        finally:
            self._passes = None

    def _check_layers(self, layers: Sequence[int]) -> None:
        count = len(list(self.layers))
        for layer in layers:
            if not -count <= layer <= count:
                raise RetrobenchError(
                    f"The base model has {count} layers, and the states behind layer {layer} are read. "
                    f"Choose a layer from 0, the embedding, to {count}."
                )

    def layer_mask(self, attention_mask: Tensor) -> Mask:
        """Return the argument of `run_layer` for a mask [B, L] that is 1 at real tokens."""
        return self._family.layer_mask(self.lm, attention_mask)

    def run_layer(self, layer: nn.Module, rows: Tensor, mask: Mask) -> Tensor:
        """Compute a transformer layer of this family, [B, L, D] -> [B, L, D], under a mask of `layer_mask`."""
        return self._family.run_layer(self.lm, layer, rows, mask)

    def embed(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        """Compute the whole embedding module (words, positions, types, LayerNorm, dropout) -> [B, L, D]."""
        module = self._family.embeddings(self.lm)
        return cast(Tensor, module(input_ids=input_ids, inputs_embeds=inputs_embeds))

    @property
    def layers(self) -> Iterable[nn.Module]:
        """The transformer layers, lowest first."""
        return self._family.layers(self.lm)

    @property
    def positions(self) -> Tensor | None:
        """The table of absolute positions, [P, D], or None where the family has none."""
        return self._family.positions(self.lm)

    def transform(self, hidden: Tensor) -> Tensor:
        """Compute the head's dense layer, activation and LayerNorm: [..., D] -> [..., D]."""
        return self._family.transform(self.lm, hidden)

    @property
    def word_matrix(self) -> Tensor:
        """The tied word embeddings, [V, D]."""
        return cast(Tensor, self.lm.get_output_embeddings().weight)

    @property
    def word_bias(self) -> Tensor | None:
        """The output bias of each word, [V], or None where the family has none."""
        return cast("Tensor | None", self.lm.get_output_embeddings().bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the whole head: [..., D] -> [..., V]."""
        projection = self.lm.get_output_embeddings()
        return cast(Tensor, projection(self.transform(hidden)))


class WordGenerator(Backbone):
    """A masked language model that draws words for masked tokens, beside a backbone (SimLM).

    It may be of ELECTRA's family too, whose embeddings are narrower than its layers, which no backbone's may be.
    """

    role = "generator"
    families: ClassVar[dict[str, _Bert]] = {**FAMILIES, "electra": _Electra()}

    def __init__(self, lm: nn.Module, max_length: int) -> None:
        """Wrap `lm` for texts of up to `max_length` tokens.

        Raises RetrobenchError if its family has no adapter, or if it takes fewer tokens.
        """
        super().__init__(lm)
        if self.positions is not None and len(self.positions) < max_length:
            raise RetrobenchError(
                f"The generator takes {len(self.positions)} tokens, and texts have up to {max_length}. "
                "Choose a generator that takes as many, or set max_length lower."
            )
