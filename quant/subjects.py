"""What a model can be asked to draw: its trained classes, or prompts. Nothing of a network is needed to tell."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import BadInput, unknown
from .schema import Sample

if TYPE_CHECKING:
    from .adapters import Adapter
    from .models import ModelCard


@dataclass(frozen=True)
class Subjects:
    """Of one model, as its card says."""

    key: str
    adapter: Adapter
    classes: Mapping[int, str]  # id -> name, only those that were trained
    prompts: Sequence[str]  # where a request has none

    @classmethod
    def of(cls, card: ModelCard, adapter: Adapter) -> Subjects:
        """Those of a card."""
        classes = {int(k): name for k, name in card.classes.items()}
        return cls(card.key, adapter, classes, card.prompts)

    def samples(
        self,
        seeds: Sequence[int],
        classes: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        negative: str | Sequence[str | None] | None = None,
    ) -> tuple[Sample, ...]:
        """Sample i takes seed i and class or prompt i mod n; the card's list where none is given.

        `negative` is one prompt for all samples, or one per prompt. Raises BadInput for what the model cannot
        draw: classes that were never trained, prompts of a model of classes, and the reverse.
        """
        if self.adapter.conditioned_on == "class":
            if negative is not None:
                raise BadInput(f"{self.key} draws classes; it takes no negative prompt")
            if prompts:
                raise BadInput(
                    f"{self.key} draws classes, not prompts; give --classes, e.g. {_some(self.classes.values())}"
                )
            ids = [self.class_id(c) for c in classes] if classes else sorted(self.classes)
            if not ids:
                raise BadInput(
                    f"{self.key} has no list of trained classes; give --classes with class ids"
                )
            return tuple(Sample(seed=s, class_id=ids[i % len(ids)]) for i, s in enumerate(seeds))
        if classes:
            raise BadInput(f"{self.key} draws prompts, not classes; give --prompt")
        texts = list(prompts or self.prompts)
        if not texts:
            raise BadInput(f"{self.key} has no sample prompts; give --prompt")
        if negative is not None and self.adapter.distilled:
            raise BadInput(
                f"{self.key} takes no negative prompt: its guidance is distilled into the network"
            )
        without = [negative] if isinstance(negative, str | None) else list(negative)
        if len(without) not in (1, len(texts)):
            raise BadInput(
                f"{len(without)} negative prompts for {len(texts)} prompts; give one, or one for each"
            )
        pairs = [(text, without[i % len(without)]) for i, text in enumerate(texts)]
        return tuple(
            Sample(seed=s, prompt=text, negative=other)
            for s, (text, other) in zip(seeds, itertools.cycle(pairs))
        )

    def class_id(self, text: str) -> int:
        """Class id from an id or a name; a class that was never trained is bad input."""
        by_name = {name: key for key, name in self.classes.items()}
        text = text.strip()
        if text.isdigit():
            if int(text) in self.classes or not self.classes:
                return int(text)
            raise BadInput(
                f"class {text} was never trained in {self.key}; trained: {_some(self.classes.values())} "
                f"(ids {_some(self.classes)})"
            )
        if text in by_name:
            return by_name[text]
        raise unknown("class", text, by_name, f"Classes of {self.key}: dqviz models --json")


def _some(names: Iterable[object]) -> str:
    listed = [str(n) for n in names]
    return ", ".join(listed[:6]) + (", ..." if len(listed) > 6 else "")
