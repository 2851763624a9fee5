"""Calibration: statistics of every quantizable input, streamed from one pass of the sampler.

Nothing raw is kept. Memory depends on the options and the model's widths, not on the number of
samples. Sites that read the same tensor record it once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import BadCheckpoint, BadInput
from .generation import StepEvent, generate
from .models import Model, safetensors_header
from .schema import Sample, Sampler, Value

BINS_PER_OCTAVE = 4
LOWEST_OCTAVE, HIGHEST_OCTAVE = (
    -16,
    12,
)  # |x| below 2^-16 counts as zero, above 2^12 in the last bin
HALF = (HIGHEST_OCTAVE - LOWEST_OCTAVE) * BINS_PER_OCTAVE
BINS = 2 * HALF + 1  # negative, zero, positive


class CalibrationOptions(Value):
    """What is recorded, and how much of it."""

    rows: int = Field(
        default=64, ge=1
    )  # rows per (input, step, branch) and batch that histograms look at
    reservoir: int = Field(
        default=512, ge=1
    )  # rows kept per input for error search, spread over steps
    seed: int = 0


@dataclass(frozen=True)
class InputStatistics:
    """Of one input tensor [rows, c]; leading axes are step and guidance branch (conditional first)."""

    minimum: Tensor  # [steps, branches, c]
    maximum: Tensor  # [steps, branches, c]
    mean: Tensor  # [steps, branches, c]
    second_moment: Tensor  # [steps, branches, c] mean of x^2
    count: Tensor  # [steps, branches] rows seen
    histogram: Tensor  # [steps, branches, BINS] counts on fixed signed log bins
    rows: Tensor  # [r, c] sampled rows, pooled over steps and branches

    @property
    def absmax(self) -> Tensor:
        """Largest |x| per channel, [steps, branches, c]."""
        return torch.maximum(self.minimum.abs(), self.maximum.abs())


FIELDS = tuple(InputStatistics.__dataclass_fields__)


@dataclass(frozen=True)
class Seen:
    """The statistics of one calibration, by input name."""

    inputs: dict[str, InputStatistics]
    timesteps: tuple[float, ...]
    manifest: dict[str, object]  # samples, sampler, options: what it was recorded from

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        tensors = {
            f"{name}/{field}": getattr(s, field).contiguous()
            for name, s in self.inputs.items()
            for field in FIELDS
        }
        described = {"manifest": json.dumps(self.manifest), "timesteps": json.dumps(self.timesteps)}
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata=described)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Seen:
        """Read what `save` wrote."""
        safetensors_header(path)
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            if "manifest" not in described:
                raise BadCheckpoint(
                    f"{path}: not a calibration of ours (no manifest in its header)"
                )
            names = sorted({key.rpartition("/")[0] for key in file.keys()})  # noqa: SIM118  (not a dict)
            inputs = {
                n: InputStatistics(**{f: file.get_tensor(f"{n}/{f}") for f in FIELDS})
                for n in names
            }
        return cls(
            inputs, tuple(json.loads(described["timesteps"])), json.loads(described["manifest"])
        )


def bin_of(x: Tensor) -> Tensor:
    """Signed log bin of every element, int64: 0 .. BINS - 1, with zero in the middle."""
    magnitude = x.abs().clamp(min=2.0**LOWEST_OCTAVE, max=2.0**HIGHEST_OCTAVE * 0.999)
    step = (
        ((magnitude.log2() - LOWEST_OCTAVE) * BINS_PER_OCTAVE).long().clamp(max=HALF - 1)
    )  # 0 .. HALF-1
    inside = x.abs() >= 2.0**LOWEST_OCTAVE
    return torch.where(
        inside, torch.where(x > 0, HALF + 1 + step, HALF - 1 - step), torch.full_like(step, HALF)
    )


class _Recorder:
    """Running statistics of one input."""

    def __init__(
        self, channels: int, steps: int, branches: int, options: CalibrationOptions, seed: int
    ) -> None:
        shape = (steps, branches, channels)
        self.minimum = torch.full(shape, torch.inf)
        self.maximum = torch.full(shape, -torch.inf)
        self.total = torch.zeros(shape, dtype=torch.float64)
        self.squares = torch.zeros(shape, dtype=torch.float64)
        self.count = torch.zeros(steps, branches, dtype=torch.int64)
        self.histogram = torch.zeros(steps, branches, BINS, dtype=torch.int64)
        self.rows = torch.empty(0, channels)
        self.keys = torch.empty(
            0
        )  # a uniform draw per kept row: the smallest survive, so batches merge
        self.options = options
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, step: int, x: Tensor) -> None:
        """x [branches, n, c]."""
        x = x.float().cpu()
        low, high = x.aminmax(dim=1)
        self.minimum[step] = torch.minimum(self.minimum[step], low)
        self.maximum[step] = torch.maximum(self.maximum[step], high)
        self.total[step] += x.sum(1, dtype=torch.float64)
        self.squares[step] += (x * x).sum(1, dtype=torch.float64)
        self.count[step] += x.shape[1]
        for branch, rows in enumerate(x):
            chosen = torch.randperm(len(rows), generator=self.generator)[: self.options.rows]
            sample = rows[chosen]  # [r, c]
            self.histogram[step, branch] += torch.bincount(
                bin_of(sample).reshape(-1), minlength=BINS
            )
            self._keep(sample)

    def _keep(self, rows: Tensor) -> None:
        keys = torch.cat([self.keys, torch.rand(len(rows), generator=self.generator)])
        pool = torch.cat([self.rows, rows])
        if len(pool) > self.options.reservoir:
            keys, best = keys.topk(self.options.reservoir, largest=False)
            pool = pool[best]
        self.keys, self.rows = keys, pool

    def finish(self) -> InputStatistics:
        n = self.count[..., None].clamp(min=1)
        return InputStatistics(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=(self.total / n).float(),
            second_moment=(self.squares / n).float(),
            count=self.count,
            histogram=self.histogram,
            rows=self.rows,
        )


def calibrate(
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    options: CalibrationOptions | None = None,
    *,
    batch_size: int = 8,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Seen:
    """Draw `samples` in full precision once and record the input of every quantizable site."""
    options = options or CalibrationOptions()
    branches = 2 if sampler.guidance > 1 else 1
    recorders: dict[str, _Recorder] = {}
    step = 0

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if x.shape[0] % branches:
                raise BadInput(
                    f"site input {name} has batch {x.shape[0]}, which is not {branches} guidance branches"
                )
            rows = x.reshape(branches, -1, x.shape[-1])
            if name not in recorders:
                recorders[name] = _Recorder(
                    x.shape[-1], sampler.steps, branches, options, options.seed + len(recorders)
                )
            recorders[name].add(step, rows)

        return hook

    def after(event: StepEvent) -> None:
        nonlocal step
        step = (event.step + 1) % event.steps
        if on_step is not None:
            on_step(event)

    timesteps: list[float] = []
    first_of = {
        site.input_of: site.name for site in reversed(model.sites) if site.kept_reason is None
    }
    handles = [
        model.transformer.get_submodule(name).register_forward_pre_hook(hook_for(group))
        for group, name in first_of.items()
    ]
    try:
        drawn = generate(
            model,
            samples,
            sampler,
            batch_size=batch_size,
            on_step=lambda e: (timesteps.append(e.timestep), after(e))[1],
        )
    finally:
        for handle in handles:
            handle.remove()
    manifest = {
        "samples": [s.to_json() for s in drawn.samples],
        "sampler": sampler.to_json(),
        "options": options.to_json(),
        "model": model.fingerprint,
    }
    return Seen(
        {name: r.finish() for name, r in recorders.items()},
        tuple(timesteps[: sampler.steps]),
        manifest,
    )
