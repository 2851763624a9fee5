"""A transformer of a class that no adapter speaks for: its layers are found, what they do is not known.

Blocks are found by repetition: a `ModuleList` whose modules are of one class, with two linear layers or more
in each. The transformer's own lists count, and where it has none, those deeper inside: lists in an embedder
beside the blocks are the embedder's. Every linear layer inside a block may be quantized, under the role
`unknown`; the others, embedders and heads, are kept. Which inputs are one tensor is not known either, so
every site reads its own.

That is enough for methods that need no roles. Nothing is drawn, because how the pipeline calls its
transformer is not known; so what needs a calibration is refused there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sample, Sampler
from .base import Adapter, Encoded, RolePattern
from .prompted import Prompted

OUTSIDE_KEPT = "outside the repeated blocks of a class that no adapter knows: an embedder or a head"


class Generic(Adapter):
    """Of one transformer class, by its name."""

    family = "generic"
    known = False
    conditioned_on = "prompt"
    block_lists = ()
    roles = (RolePattern(r".*", "unknown"),)
    outside = (RolePattern(r".*", "unknown", kept=OUTSIDE_KEPT),)
    unshared = "no adapter knows its attentions"

    def __init__(self, transformer: nn.Module) -> None:
        """BadInput where nothing repeats."""
        self.transformer_class = type(transformer).__name__
        if not self.blocks(transformer):
            raise BadInput(
                f"{self.transformer_class} has no adapter, and no list of blocks with linear layers "
                "that repeats, so it is not known what to quantize. Write an adapter: "
                "docs/adding-a-model.md"
            )

    def blocks(self, transformer: nn.Module) -> list[str]:
        """Full names of the modules of every list that repeats, in module order."""
        lists: dict[str, int] = {}
        for name, module in transformer.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in lists)
            if not inside and isinstance(module, nn.ModuleList) and _repeats(module):
                lists[name] = len(module)
        own = {name: length for name, length in lists.items() if _is_own(name, transformer)}
        return [
            f"{name}.{index}" for name, count in (own or lists).items() for index in range(count)
        ]

    def card_defaults(self, pipe: Any) -> dict[str, Any]:
        """With prompts, so that what is asked for is refused where it draws, and not before."""
        return {"prompts": Prompted.sample_prompts, **super().card_defaults(pipe)}

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """Not known."""
        raise self._cannot_draw()

    def conditions(
        self, pipe: Any, samples: Sequence[Sample], sampler: Sampler, encoded: Encoded
    ) -> Any:
        """Not known."""
        raise self._cannot_draw()

    def predict(
        self,
        transformer: nn.Module,
        latents: Tensor,
        timestep: Tensor,
        conditions: Any,
        guidance: float,
    ) -> Any:
        """Not known."""
        raise self._cannot_draw()

    def _cannot_draw(self) -> BadInput:
        return BadInput(
            f"{self.transformer_class} has no adapter, so how its pipeline draws is not known, and "
            "neither pictures nor a calibration are made; dqviz layers, size and quantize with a "
            "method that needs no calibration (rtn) work. An adapter: docs/adding-a-model.md"
        )


def _repeats(modules: nn.ModuleList) -> bool:
    """Whether these are blocks: of one class, each with two linear layers or more."""
    kinds = {type(module) for module in modules}
    return len(kinds) == 1 and all(
        sum(_is_linear(part) for part in module.modules()) > 1 for module in modules
    )


def _is_own(name: str, transformer: nn.Module) -> bool:
    """Whether a list is the transformer's, by itself or in a dictionary of lists."""
    parent = name.rpartition(".")[0]
    return not parent or isinstance(transformer.get_submodule(parent), nn.ModuleDict)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or hasattr(module, "dqviz_site")
