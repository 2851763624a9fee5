"""What a tier is given: the cells, and all that it takes to measure them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field
from torch import Tensor

from ..errors import BadInput
from ..evaluate import Classifier
from ..models import Model
from ..plans import steps_of
from ..schema import Sample, Sampler, Value, Window
from ..seen import Seen
from .cells import Batch, Bits, Cell, Operand
from .rounded import RoundedLayers
from .sampling import Drawer

Key = tuple[str, Operand, Bits]  # a cell without its window


class Settings(Value):
    """How a sweep is made, whatever is swept."""

    batch_size: int = Field(default=8, ge=1)  # samples per network evaluation
    whole: bool = True  # cells of all steps beside those of single windows
    probes: int = Field(default=8, ge=1, le=4096)  # tier gradient: random directions per sample
    seed: int = Field(default=0, ge=0, lt=2**32)  # tier gradient: of those directions
    both_ways: bool = True  # tier exact: also everything rounded but the cell
    pictures: bool = True  # tier exact: also the metrics of pictures


@dataclass(frozen=True)
class Task:
    """The cells of one sweep that are left, and what they are measured with."""

    model: Model
    cells: tuple[Cell, ...]
    sites: tuple[str, ...]  # every asked site, whether cells of it are left or not
    windows: tuple[Window, ...]
    samples: tuple[Sample, ...]
    sampler: Sampler
    layers: RoundedLayers
    drawer: Drawer
    settings: Settings
    seen: Seen | None = None
    classifier: Classifier | None = None
    on_progress: Callable[[int, int], None] | None = None
    kept: tuple[Batch, ...] = ()  # of tiers that measure all cells at once: what is there already
    on_batch: Callable[[Batch], None] | None = None
    steps: tuple[tuple[int, ...], ...] = field(init=False)  # of each window

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", steps_of(self.windows, self.drawer.timesteps))

    def steps_in(self, window: int | None) -> tuple[int, ...]:
        """Steps of a window, or all of them."""
        return tuple(range(len(self.drawer.timesteps))) if window is None else self.steps[window]

    @property
    def keys(self) -> tuple[Key, ...]:
        """What is rounded in any cell, each once."""
        return tuple(dict.fromkeys((c.site, c.operand, c.bits) for c in self.cells))

    @property
    def batches(self) -> list[tuple[Sample, ...]]:
        """Samples that are drawn together."""
        size = self.settings.batch_size
        return [self.samples[i : i + size] for i in range(0, len(self.samples), size)]

    def progress(self, done: int, total: int) -> None:
        """Tell how far a tier is; may raise `Cancelled`."""
        if self.on_progress is not None:
            self.on_progress(done, total)

    def end_batch(self, batch: Batch) -> None:
        """Hand on what a batch gave."""
        if self.on_batch is not None:
            self.on_batch(batch)

    def by_sample(self, y: Tensor, count: int, site: str) -> Tensor:
        """y of a batch of `count` samples as [branches, count, ...]: both guidance branches are one output."""
        branches = self.model.branches(self.sampler.guidance)
        if y.shape[0] % (branches * count):
            raise BadInput(
                f"the output of {site} has shape {list(y.shape)}, which is not {branches} guidance "
                f"branches of {count} samples"
            )
        return y.reshape(branches, count, -1)


Heard = Callable[[str, Tensor, Tensor], Tensor | None]  # site, input, output -> its new output


@contextmanager
def tapped(model: Model, sites: tuple[str, ...], heard: Heard) -> Iterator[None]:
    """Hear input and output of full precision's layers during a block of code.

    The input is what comes in, before whatever else hooks do with it; the output what goes out.
    """
    handles = []
    try:
        for site in sites:
            layer, held = model.transformer.get_submodule(site), []
            before, after = _pair(site, held, heard)
            handles.append(layer.register_forward_pre_hook(before, prepend=True))
            handles.append(layer.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pair(site: str, held: list[Tensor], heard: Heard) -> tuple[Any, Any]:
    def before(_: Any, args: tuple[Tensor, ...]) -> None:
        held.append(args[0])

    def after(_: Any, args: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        return heard(site, held.pop(), y)

    return before, after
