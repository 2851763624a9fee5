"""A loaded model and its card: what the engine knows of a diffusers pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from .errors import BadInput
from .schema import Injection, Lora, Sample, Sampler, Value, fingerprint
from .subjects import Subjects

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .adapters import Adapter, Site

CARD_NAME = "dqviz.json"
EMBEDDED = Path(__file__).parents[1] / "assets" / "models"


class ModelCard(Value):
    """What a person should know before drawing: `dqviz.json`, or a family's defaults."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"size", "frames"})

    format: Literal[1] = 1
    key: str
    title: str
    family: str
    task: str
    guidance: float = Field(ge=0)
    steps: int = Field(ge=1)
    scheduler: str | None = None  # diffusers class name; None: the pipeline's own
    size: tuple[int, int] | None = None  # height, width in pixels; None: what the pipeline draws
    frames: int | None = Field(default=None, ge=1)  # of a clip; None: what the pipeline draws
    classes: dict[str, str] = {}  # class id -> name, only those that were trained
    prompts: tuple[str, ...] = ()
    licence: str = "unknown"
    training: str = ""
    classifier: str | None = None  # key of the shipped classifier that judges this model


@cache
def embedded_models() -> dict[str, Path]:
    """Folders of the models that come with the repository, by key."""
    cards = sorted(EMBEDDED.glob(f"*/{CARD_NAME}"))
    return {json.loads(card.read_text(encoding="utf-8"))["key"]: card.parent for card in cards}


@dataclass
class Model:
    """A loaded diffusers pipeline with what the engine knows of it."""

    ref: str
    path: Path  # local folder of the pipeline; a hub model's lies in the hub's cache
    from_hub: bool
    pipe: Any
    adapter: Adapter
    card: ModelCard
    sites: list[Site]
    source_dtype: torch.dtype  # dtype of the weights on disk: checkpoints are written in it
    device: torch.device
    dtype: torch.dtype
    revision: str | None = None
    classes: dict[int, str] = field(default_factory=dict)
    outliers: Injection | None = None  # synthetic ones, put in by `quant.outliers`
    scratch: Path | None = None  # folder for what does not fit into memory; None: all is in memory
    base: str | None = None  # the pipeline of a transformer in a file of its own
    weights: Path | None = None  # that file
    loras: tuple[Lora, ...] = ()  # fused into the weights, with digests
    notes: tuple[str, ...] = ()  # what was not taken from its files
    texts: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)  # encoded before

    @property
    def key(self) -> str:
        """Short name for folders and tables."""
        return self.card.key

    @property
    def origin(self) -> dict[str, Any]:
        """What a recipe says of where the weights come from, beside `ref`; None where it is nothing."""
        return {"revision": self.revision, "base": self.base, "loras": self.loras or None}

    @property
    def pipeline_ref(self) -> str:
        """The pipeline that a checkpoint of this model belongs to, by a name that opens it elsewhere too."""
        if self.base is None:
            return self.ref if self.from_hub else self.key
        return self.base if self.from_hub else Path(self.base).name

    @property
    def transformer(self) -> nn.Module:
        """The full-precision transformer."""
        return self.pipe.transformer

    @property
    def fingerprint(self) -> str:
        """Of the site list, and of synthetic outliers: a plan fits a model when this agrees."""
        sites = [[s.name, s.role, s.in_features, s.out_features] for s in self.sites]
        return fingerprint(sites if self.outliers is None else [sites, self.outliers.to_json()])

    def sampler(
        self,
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
    ) -> Sampler:
        """The card's sampler with what is given put over it; size is height and width in pixels."""
        steps = self.card.steps if steps is None else steps
        guidance = self.card.guidance if guidance is None else guidance
        if not 1 <= steps <= 1000:
            raise BadInput(f"steps {steps} is out of range; 1 to 1000")
        if not 0 <= guidance <= 100:
            raise BadInput(
                f"guidance {guidance:g} is out of range; 0 to 100 (1 turns guidance off)"
            )
        name = scheduler or self.card.scheduler or type(self.pipe.scheduler).__name__
        config = {
            k: v
            for k, v in self.pipe.scheduler.config.items()
            if not k.startswith("_") and _is_json(v)
        }
        said = {
            "scheduler": name,
            "config": config,
            "steps": steps,
            "guidance": guidance,
            "size": self.card.size if size is None else size,
            "frames": self.card.frames if frames is None else frames,
        }
        sampler: Sampler = Sampler.parse(said, f"the sampler of {self.key}")
        if (sampler.size, sampler.frames) != (None, None):
            self.adapter.latent_shape(self.pipe, sampler)  # stops at what cannot be drawn
        return self.adapter.resolved(self.pipe, sampler)

    def with_steps(self, sampler: Sampler, steps: int) -> Sampler:
        """The same sampler with other steps."""
        sigmas = None if sampler.sigmas is None else sampler.sigmas[:1] * steps
        changed = sampler.model_copy(update={"steps": steps, "sigmas": sigmas})
        return self.adapter.resolved(self.pipe, changed)

    def branches(self, guidance: float) -> int:
        """Guidance branches of one evaluation, 1 or 2."""
        return self.adapter.branches(guidance)

    def latent_shape(self, sampler: Sampler) -> tuple[int, ...]:
        """Of one sample, [c, h, w] or [c, f, h, w]."""
        return self.adapter.latent_shape(self.pipe, sampler)

    def conditions(self, samples: Sequence[Sample], sampler: Sampler) -> Any:
        """What `adapter.predict` is told of these samples; each different text is encoded once per model."""
        return self.adapter.conditions(self.pipe, samples, sampler, self._encoded)

    def _encoded(self, text: str) -> dict[str, Tensor]:
        import torch

        if text not in self.texts:
            with torch.no_grad():
                made = self.adapter.encode(self.pipe, text)
            self.texts[text] = {name: row.cpu() for name, row in made.items()}
        return {name: row.to(self.device) for name, row in self.texts[text].items()}

    @property
    def subjects(self) -> Subjects:
        """What it can be asked to draw."""
        return Subjects(self.key, self.adapter, self.classes, self.card.prompts)

    def samples(
        self,
        seeds: Sequence[int],
        classes: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        negative: str | Sequence[str | None] | None = None,
    ) -> tuple[Sample, ...]:
        """As `Subjects.samples`."""
        return self.subjects.samples(seeds, classes, prompts, negative)


def _is_json(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | type(None))
