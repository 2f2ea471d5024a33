"""
Composed objectives, such as `mlm+0.5*retromae`: each component with its weight, in one training.

* Component       an objective with the weight of its losses
* Composition     several of them, as one objective
* is_composition  whether a text names a composition
* parse_parts     the components that a text names
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from retrobench.errors import RetrobenchError
from retrobench.objective import ChoosesExamples, Context, Objective, Passage, Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["Component", "Composition", "Part", "is_composition", "parse_parts"]


class Part(NamedTuple):
    """A component as it is written: its weight, and NAME or NAME:PRESET."""

    weight: float
    text: str


def is_composition(text: str) -> bool:
    """Return whether a text names a composition, by a plus or a weight."""
    return "+" in text or "*" in text


def parse_parts(text: str) -> list[Part]:
    """Return the components of a text such as `mlm+0.5*retromae:paper`. RetrobenchError for a weight of no number."""
    parts = []
    for component in text.split("+"):
        weight, star, name = component.rpartition("*")
        try:
            number = float(weight) if star else 1.0
        except ValueError:
            number = 0.0
        if not name or not 0 < number < float("inf"):
            raise RetrobenchError(
                f"Objective {text!r} is no composition: {component!r} is neither NAME nor WEIGHT*NAME with a weight "
                "above 0. Write it as mlm+0.5*retromae."
            )
        parts.append(Part(number, name))
    return parts


@dataclass(frozen=True)
class Component:
    """An objective in a composition."""

    objective: Objective
    weight: float = 1.0


@dataclass(frozen=True)
class Composition:
    """Several objectives trained together, on one pass of the encoder where they agree on its input.

    Each component draws from a generator of the same state, so components that mask alike read the same ids. Their
    masked-language-modelling losses are then one loss, with the greatest of their weights.
    """

    components: tuple[Component, ...]

    contract: ClassVar[int] = 1
    pretrains: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        """Raise RetrobenchError for components that cannot be trained together."""
        names = [component.objective.name for component in self.components]
        for name in names:
            if names.count(name) > 1:
                raise RetrobenchError(f"The composition {self.name!r} has {name} twice. Name it once, with a weight.")
        for component in self.components:
            if not component.objective.pretrains:
                raise RetrobenchError(
                    f"{component.objective.name} trains nothing, so it is no component. Leave it out."
                )
        for member, objectives in (("couples its batch", self._coupled), ("chooses its examples", self._choosing)):
            if len(objectives) > 1:
                two = " and ".join(objective.name for objective in objectives)
                raise RetrobenchError(f"Of a composition one component {member} at most; {two} do. Compose others.")

    @property
    def name(self) -> str:
        """Return the components' names and weights, as on the command line."""
        texts = []
        for component in self.components:
            weight = "" if component.weight == 1 else f"{component.weight:g}*"
            texts.append(f"{weight}{component.objective.name}")
        return "+".join(texts)

    @property
    def paper(self) -> str:
        """Return the citations."""
        return "; ".join(dict.fromkeys(component.objective.paper for component in self.components))

    @property
    def representation(self) -> str:
        """Return the representation of the components, where `cls` gives way to any other.

        RetrobenchError for components of two other representations.
        """
        others = {component.objective.representation: component.objective.name for component in self.components}
        others.pop("cls", None)
        if len(others) > 1:
            texts = " and ".join(f"{name} is read by {representation}" for representation, name in others.items())
            raise RetrobenchError(f"{texts}. Compose objectives that are read alike.")
        return next(iter(others), "cls")

    @property
    def couples_batch(self) -> bool:
        """Return whether a component compares the examples of a batch."""
        return bool(self._coupled)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings as COMPONENT.KEY, and the weights as COMPONENT."""
        settings: dict[str, Any] = {}
        for component in self.components:
            name = component.objective.name
            settings[name] = component.weight
            for key, value in asdict(cast(Any, component.objective)).items():
                settings[f"{name}.{key}"] = value
        return settings

    @property
    def _coupled(self) -> list[Objective]:
        return [component.objective for component in self.components if component.objective.couples_batch]

    @property
    def _choosing(self) -> list[Objective]:
        """Return the objectives with the optional method `examples`."""
        return [component.objective for component in self.components if hasattr(component.objective, "examples")]

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return the components' batches as one; see `Composed`."""
        from retrobench.config.composed import join_batches

        state = generator.get_state()
        batches = []
        for component in self.components:
            generator.set_state(state)
            batches.append(component.objective.collate(passages, vocabulary, max_length, generator))
        return join_batches(batches)

    def wrap(self, backbone: Any, context: Context) -> torch.nn.Module:
        """Return a module that holds the components' modules around one backbone."""
        from retrobench.config.composed import Composed, added_of

        modules = []
        for index, component in enumerate(self.components):
            own_context = replace(context, added=added_of(context.added, index))
            modules.append(component.objective.wrap(backbone, own_context))
        names = [component.objective.name for component in self.components]
        weights = [component.weight for component in self.components]
        coupled = [index for index, item in enumerate(self.components) if item.objective.couples_batch]
        return Composed(backbone, modules, names, weights, coupled[0] if coupled else None)

    def examples(self, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples of the component that chooses them, or every document once."""
        import numpy as np

        for objective in self._choosing:
            return cast(ChoosesExamples, objective).examples(lengths, max_length)
        return np.arange(len(lengths)), lengths
