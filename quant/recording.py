"""Running statistics of one input tensor: what a hook adds to, and what becomes `InputStatistics`.

Shapes: B guidance branches (conditional first), n samples, T tokens, c channels; S steps.

A pass over all rows costs a few reductions; histograms, moments and row maxima look at few rows
(`row_choice`). Work happens on the device of the activations; totals are kept on the CPU, in float64
where numbers are summed, so that batches merge without loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .mapped import Mapped
from .row_choice import Chosen, RowChoice
from .seen_layout import BINS, BINS_PER_OCTAVE, HALF, LOWEST_OCTAVE

SURFACE = 128  # cells of a surface along tokens and along channels, at most
LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class InputStatistics:
    """Of one input tensor [rows, c]; leading axes are step and guidance branch (conditional first)."""

    minimum: Tensor  # [S, B, c], all rows
    maximum: Tensor  # [S, B, c], all rows
    mean: Tensor  # [S, B, c], all rows
    second_moment: Tensor  # [S, B, c] mean of x^2, all rows
    count: Tensor  # [S, B] int64, rows seen
    mean_abs: Tensor  # [S, B] mean of |x| over all rows and channels
    histogram: Tensor  # [S, B, BINS] int32, counts of the sampled rows on fixed signed log bins
    histogram_rows: Tensor  # [S, B] int64, how many rows were sampled
    moments: Tensor  # [S, B, 4] float64, sums of x, x^2, x^3, x^4 over the sampled rows
    row_absmax: Tensor  # [S, B, k] largest |x| of k rows
    rows: Tensor  # [r, c] rows, equally many per step and branch, in a seeded random order
    row_steps: Tensor  # [r] int16
    row_branches: Tensor  # [r] int16
    surface: Tensor  # [F, T', C'] float16, |x| of the first sample's conditional branch, max-pooled
    surface_steps: Tensor  # [F] int16, steps that surfaces were kept of
    surface_factors: Tensor  # [2] int16, tokens and channels per cell

    @property
    def absmax(self) -> Tensor:
        """Largest |x| per channel, [S, B, c]."""
        return torch.maximum(self.minimum.abs(), self.maximum.abs())

    def during(self, steps: Sequence[int]) -> InputStatistics:
        """Of these steps alone, numbered anew; rows and surfaces that are of none of them are left out."""
        chosen = torch.tensor(steps)
        number = torch.full((len(self.count),), -1, dtype=torch.int16)
        number[chosen] = torch.arange(len(chosen), dtype=torch.int16)
        found = {name: value for name, value in vars(self).items() if name not in _BY_ROW}
        found = {n: v if n == "surface_factors" else v[chosen] for n, v in found.items()}
        for of, names in (("row_steps", _ROWS), ("surface_steps", _SURFACES)):
            owner = number[getattr(self, of).long()]
            found |= {name: getattr(self, name)[owner >= 0] for name in names}
            found[of] = owner[owner >= 0]
        return InputStatistics(**found)


FIELDS = tuple(InputStatistics.__dataclass_fields__)
_ROWS = ("rows", "row_branches")  # of the steps that `row_steps` says
_SURFACES = ("surface",)  # of the steps that `surface_steps` says
_BY_ROW = (*_ROWS, *_SURFACES, "row_steps", "surface_steps")


@dataclass(frozen=True)
class InputShape:
    """One input: rows per sample and branch, and its width."""

    tokens: int
    channels: int

    @property
    def factors(self) -> tuple[int, int]:
        """Tokens and channels per cell of its surface."""
        return -(-self.tokens // SURFACE), -(-self.channels // SURFACE)

    @property
    def surface(self) -> tuple[int, int]:
        """Cells of its surface along tokens and channels."""
        tokens, channels = self.factors
        return -(-self.tokens // tokens), -(-self.channels // channels)


def bin_of(x: Tensor) -> Tensor:
    """Signed log bin of every element, int64: 0 .. BINS - 1, with zero in the middle."""
    return _bins(x).long()


def counts_of(x: Tensor) -> Tensor:
    """Histogram per leading index, x [n, ...] -> [n, BINS] int64."""
    n = len(x)
    offsets = BINS * torch.arange(n, device=x.device, dtype=torch.float32)
    bins = _bins(x).reshape(n, -1).add_(offsets[:, None]).reshape(-1).long()
    if x.device.type == "cpu":
        return torch.bincount(bins, minlength=n * BINS).reshape(n, BINS)
    # bincount waits for the device to learn the largest bin; this does not.
    counts = torch.zeros(n * BINS, dtype=torch.int64, device=x.device)
    return counts.scatter_add_(0, bins, torch.ones_like(bins)).reshape(n, BINS)


def _bins(x: Tensor) -> Tensor:
    """Bins as whole float32 numbers; what is not a number goes to the middle."""
    # Magnitudes from 2^-16 up: octaves times 4 -> 1 .. HALF; smaller ones and zero -> 0.
    bins = x.float().abs().log2_().sub_(LOWEST_OCTAVE).mul_(BINS_PER_OCTAVE).floor_()
    return bins.clamp_(-1, HALF - 1).add_(1).copysign_(x).add_(HALF).nan_to_num_(HALF)


def _power_sums(x: Tensor) -> Tensor:
    """Sums of x, x^2, x^3, x^4 per leading index, x [B, ...] -> [B, 4] float64."""
    squared = x * x
    sums = [x.sum((1, 2)), squared.sum((1, 2))]
    sums += [(squared * x).sum((1, 2)), squared.square_().sum((1, 2))]
    return torch.stack(sums, -1).double()


def pooled(magnitude: Tensor, shape: InputShape) -> Tensor:
    """Largest of every cell of |x| [T, c] -> [T', C']; cells at the edges may be smaller."""
    (tokens, channels), (rows, columns) = shape.factors, shape.surface
    padding = (0, columns * channels - shape.channels, 0, rows * tokens - shape.tokens)
    cells = F.pad(magnitude, padding).reshape(rows, tokens, columns, channels)
    return cells.amax((1, 3))


class Recorder:
    """Running statistics of one input at one stage; `state` is all that a checkpoint needs."""

    def __init__(
        self,
        shape: InputShape,
        steps: int,
        branches: int,
        choice: RowChoice,
        surface_steps: Sequence[int],
        scratch: dict[object, Tensor],
        room: Mapped | None = None,
    ) -> None:
        """Of one input; totals lie in `room`, or in memory."""
        self.shape, self.choice, self.scratch = shape, choice, scratch
        self.surface_steps = tuple(surface_steps)
        lead, c = (steps, branches), shape.channels
        full = torch.full if room is None else room.full
        double, long, half = torch.float64, torch.int64, torch.float16
        surface = (len(self.surface_steps), *shape.surface)
        self.state: dict[str, Tensor] = {
            "minimum": full((*lead, c), torch.inf, dtype=torch.float32),
            "maximum": full((*lead, c), -torch.inf, dtype=torch.float32),
            "total": full((*lead, c), 0, dtype=double),
            "squares": full((*lead, c), 0, dtype=double),
            "absolute": full(lead, 0, dtype=double),
            "count": full(lead, 0, dtype=long),
            "histogram": full((*lead, BINS), 0, dtype=torch.int32),
            "histogram_rows": full(lead, 0, dtype=long),
            "moments": full((*lead, 4), 0, dtype=double),
            "row_absmax": full((*lead, choice.absmax), 0, dtype=torch.float32),
            "rows": full((*lead, choice.per_stratum, c), 0, dtype=torch.float32),
            "surface": full(surface, 0, dtype=half),
        }

    def measure(self, x: Tensor, chosen: Chosen, step: int, first: bool) -> list[Tensor]:
        """What a batch x [B, n T, c] adds; `first` says that it holds the first sample.

        Nothing waits for the device here.
        """
        sampled = x.index_select(1, chosen.histogram)  # [B, h, c]
        scratch = torch.mul(x, x, out=self._scratch(x))
        squares = scratch.sum(1)
        absolute = torch.abs(x, out=scratch).sum((1, 2))
        parts = [
            x.amin(1),
            x.amax(1),
            x.sum(1),
            squares,
            absolute,
            counts_of(sampled),
            _power_sums(sampled),
            x.index_select(1, chosen.absmax).abs().amax(-1),
            x.index_select(1, chosen.kept),
        ]
        if first and step in self.surface_steps:
            parts.append(pooled(x[0, : self.shape.tokens].abs(), self.shape))
        return parts

    def _scratch(self, x: Tensor) -> Tensor:
        """A tensor like x that all recorders of a pass share: fresh memory costs more than the sums."""
        key = (x.device, x.shape)
        if key not in self.scratch:
            self.scratch[key] = torch.empty_like(x)
        return self.scratch[key]

    def merge(self, parts: Sequence[Tensor], chosen: Chosen, step: int, rows: int) -> bool:
        """Add what `measure` found, on the CPU; False when it is not finite, and nothing was added."""
        low, high, total, squares, absolute, counts, moments, absmax, kept, *surface = parts
        if not bool((low.isfinite() & high.isfinite()).all()):
            return False
        s = {name: value[step] for name, value in self.state.items() if name != "surface"}
        torch.minimum(s["minimum"], low, out=s["minimum"])
        torch.maximum(s["maximum"], high, out=s["maximum"])
        s["total"] += total
        s["squares"] += squares
        s["absolute"] += absolute
        s["count"] += rows
        s["histogram"] += counts.int()
        s["histogram_rows"] += len(chosen.histogram)
        s["moments"] += moments
        s["row_absmax"][:, chosen.absmax_slots] = absmax.float()
        s["rows"][:, chosen.kept_slots] = kept.float()
        for part in surface:
            at = self.surface_steps.index(step)
            self.state["surface"][at] = part.clamp(max=LARGEST).half()
        return True

    def finish(self, keep: bool = False) -> InputStatistics:
        """The statistics; without `keep` the recorder is empty afterwards: memory is held once."""
        s = dict(self.state)
        if not keep:
            self.state = {}
        n = s["count"].clamp(min=1)
        at = torch.arange(self.choice.absmax)
        at = at % max(1, self.choice.filled(self.shape.tokens, self.choice.absmax))
        rows, steps, branches = self._rows(s.pop("rows"))
        return InputStatistics(
            minimum=s.pop("minimum"),
            maximum=s.pop("maximum"),
            mean=(s.pop("total") / n[..., None]).float(),
            second_moment=(s.pop("squares") / n[..., None]).float(),
            mean_abs=(s["absolute"] / (n * self.shape.channels)).float(),
            row_absmax=s["row_absmax"][..., at],
            rows=rows,
            row_steps=steps,
            row_branches=branches,
            surface_steps=torch.tensor(self.surface_steps, dtype=torch.int16),
            surface_factors=torch.tensor(self.shape.factors, dtype=torch.int16),
            **{k: s[k] for k in ("count", "histogram", "histogram_rows", "moments", "surface")},
        )

    def _rows(self, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kept rows with step and branch of each, shuffled: any first part is spread over the steps."""
        filled = self.choice.filled(self.shape.tokens, self.choice.per_stratum)
        quota = torch.from_numpy(self.choice.quota).clamp(max=filled)  # [S, B]
        inside = torch.arange(kept.shape[2]) < quota[..., None]  # [S, B, q]
        at = inside.nonzero()  # [r, 3]
        generator = torch.Generator().manual_seed(self.choice.seed)
        at = at[torch.randperm(len(at), generator=generator)]
        return kept[at[:, 0], at[:, 1], at[:, 2]], at[:, 0].short(), at[:, 1].short()


class OnDisk(Mapping[str, InputStatistics]):
    """Statistics of inputs whose totals lie on disk, made when they are asked for."""

    def __init__(self, recorders: dict[str, Recorder], room: Mapped) -> None:
        self._recorders, self._room = recorders, room

    def __getitem__(self, name: str) -> InputStatistics:
        self._room.let_go()  # of what was asked for before
        return self._recorders[name].finish(keep=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._recorders)

    def __len__(self) -> int:
        return len(self._recorders)
