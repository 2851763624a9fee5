"""How much a calibration and a method will take, counted from shapes before anything runs.

Shapes: r calibration rows of an input, i its channels, O outputs of all weights that read it; T rows of
a sample in one guidance branch; b channels that a change of basis mixes (its multiply-adds per number).

    drawing    sum over layers T i o, and 2 T^2 i per attention, for every sample, step and branch
    recording  the sums over every row (`quant.recording`)
    rounding   b i O to fold a change of basis, then a few passes over i O weights
    judging    2 r i O for the exact and the rounded product, b (r + O) i for the change of basis

Counted, so predicted: seconds are counts over rates that this machine had for a moment
(`dqviz.machine.rates`). Passes per number and calls per step were counted in the code; how near the sum
comes is measured by `benchmarks/trdq.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

import kernels

from .adapters import Adapter, Site, adapter_for
from .footprint import Recorded, footprint
from .recording import InputShape
from .row_choice import quotas
from .schema import Sampler, Value
from .seen_layout import CalibrationOptions
from .site_tensors import Transform
from .transforms import block_of

TEXT_TOKENS = 256  # of a prompt, where no text encoder is at hand
_ROUND = 10  # passes over the numbers that are rounded: extremes, scale, zero, codes, values
_JUDGE = 6  # over an output: difference, square, sums over steps
_RECORD = 9  # over an input: extremes, sums, squares, magnitudes
_DRAW = 30  # over a layer's input: norms, modulation, activation functions, residuals
_CALLS = 30  # operations that a layer and what stands about it are made of
_ATTENDING = ("self_q", "temporal_q", "joint_q", "single_in")


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second."""

    macs: float  # multiply-adds of float32 matrices
    numbers: float  # that pass through an operation element by element
    calls: float  # operations on next to nothing


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    macs: float = 0.0
    numbers: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.numbers + other.numbers, self.calls + other.calls)

    def __mul__(self, times: float) -> Work:
        return Work(self.macs * times, self.numbers * times, self.calls * times)

    def seconds(self, rates: Rates) -> float:
        """About how long it takes."""
        return self.macs / rates.macs + self.numbers / rates.numbers + self.calls / rates.calls


@dataclass(frozen=True)
class GroupShape:
    """The sites that read one tensor, as far as work depends on them."""

    width: int  # i
    outputs: tuple[int, ...]  # o of every site
    rows: int  # r
    steps: int  # of the calibration
    tokens: int = 1  # T, where it is known: rows that a method which learns runs through
    groups: int = 1  # of the whole model
    block: int | None = None  # that they are in
    branches: int = 2  # of guidance

    @property
    def weights(self) -> int:
        """i O."""
        return self.width * sum(self.outputs)


def rounding(shape: GroupShape, mixed: float = 0) -> Work:
    """Fold a change of basis that costs `mixed` multiply-adds per number, and round once."""
    passes = _ROUND + (2 if mixed else 1)
    return Work(mixed * shape.weights, passes * shape.weights, 25 * len(shape.outputs))


def judging(shape: GroupShape, mixed: float = 0, windows: int = 1) -> Work:
    """`quant.balancing.output_error` of one candidate, in each of some windows that share the rows."""
    rows = shape.rows * shape.width
    products = Work(2 * shape.rows * shape.weights + mixed * rows)
    sums = Work(0, _ROUND * rows * len(shape.outputs) + _JUDGE * shape.rows * sum(shape.outputs))
    calls = Work(0, 0, (15 + 40 * len(shape.outputs)) * windows)
    return products + sums + calls + rounding(shape, mixed) * windows


def method_work(module: Any, shapes: Iterable[GroupShape], options: Value) -> Work:
    """Of a whole model; a method without a `work` of its own folds what it stores, and rounds once.

    What a method that learns does in all its steps is in its `work`, input by input.
    """
    total = Work()
    for shape in shapes:
        if hasattr(module, "work"):
            total = total + module.work(shape, options)
        else:
            total = total + rounding(shape, mixing(module.stored_transform(options), shape.width))
    return total


def mixing(transform: Transform, width: int) -> float:
    """Multiply-adds per number of a change of basis."""
    blocks = 2 * block_of(width, transform.block) if transform.block else 0
    return blocks + (kernels.hadamard.cost(width) if transform.rotate else 0)


@dataclass(frozen=True)
class Network:
    """A network of which only shapes are known."""

    sites: list[Site]
    adapter: Adapter

    def branches(self, guidance: float) -> int:
        """Guidance branches of one evaluation."""
        return self.adapter.branches(guidance)


def group_shapes(
    network: Recorded,
    quantized: Iterable[str],
    sampler: Sampler,
    record: CalibrationOptions,
    shapes: Mapping[str, InputShape] | None = None,
) -> list[GroupShape]:
    """The groups of these sites after a calibration with this sampler; `shapes` tells their tokens."""
    known = shapes or {}
    inside, outputs, widths, blocks = set(quantized), {}, {}, {}
    for site in network.sites:
        if site.name in inside:
            outputs.setdefault(site.input_of, []).append(site.out_features)
            widths[site.input_of], blocks[site.input_of] = site.in_features, site.block
    branches = network.branches(sampler.guidance)
    rows = int(quotas(record.reservoir, sampler.steps, branches).sum())
    return [
        GroupShape(
            widths[name],
            tuple(of),
            rows,
            sampler.steps,
            known[name].tokens if name in known else 1,
            len(outputs),
            blocks[name],
            branches,
        )
        for name, of in outputs.items()
    ]


def drawing(sites: Sequence[Site], shapes: Mapping[str, InputShape], frames: int = 1) -> Work:
    """One evaluation of the network for one sample in one branch; kept layers see one row."""
    total = Work()
    for site in sites:
        tokens = shapes[site.input_of].tokens if site.input_of in shapes else 1
        total = total + Work(
            tokens * site.in_features * site.out_features, _DRAW * tokens * site.in_features
        )
        if site.role in _ATTENDING and tokens > 1:
            across = frames if site.role.startswith("temporal") else tokens // frames
            each = site.in_features * across * tokens
            total = total + Work(2 * each, 4 * across * tokens * site.in_features / 64)
    return total


def calibrating(
    network: Recorded,
    shapes: Mapping[str, InputShape],
    sampler: Sampler,
    samples: int,
    batch_size: int,
    frames: int = 1,
) -> Work:
    """Draw the samples once and record every input."""
    recorded = sum(shape.tokens * shape.channels for shape in shapes.values())
    sites = network.sites
    each = drawing(sites, shapes, frames) + Work(0, _RECORD * recorded)
    batches = -(-samples // batch_size)
    calls = Work(0, 0, _CALLS * (len(sites) + 2 * len(shapes)) * batches * sampler.steps)
    evaluations = samples * sampler.steps * network.branches(sampler.guidance)
    return each * evaluations + calls


def calibration_memory(
    network: Recorded,
    shapes: Mapping[str, InputShape],
    sampler: Sampler,
    record: CalibrationOptions,
    batch_size: int,
) -> int:
    """Bytes of the statistics while they are recorded, at most."""
    return footprint(network, sampler, record, shapes, None, batch_size).memory_bytes


def method_memory(module: Any, shapes: Sequence[GroupShape], options: Value) -> int:
    """Bytes that a method works with: as its `memory` says, else at the input that needs most.

    That is its rows, weights and outputs, thrice each.
    """
    if hasattr(module, "memory"):
        return module.memory(shapes, options)
    return max(
        (
            4 * 3 * (s.rows * s.width + s.weights + s.rows * max(s.outputs, default=0))
            for s in shapes
        ),
        default=0,
    )


def shapes_of(
    transformer: nn.Module,
    sites: Sequence[Site],
    size: tuple[int, int] | None = None,
    length: int | None = None,
    text: int = TEXT_TOKENS,
) -> tuple[dict[str, InputShape], int]:
    """Rows of every input of a network that is not run, from its configuration, and frames.

    `size` in pixels and `length` in frames are what is asked for, if it is other than the configuration's.
    Empty where the configuration does not say how large a picture is. A prompt has `text` tokens.
    """
    config: Any = transformer.config
    drawn = adapter_for(transformer).tokens(config, size, length)
    if drawn is None:
        return {}, 1
    tokens, frames = drawn
    streams = {site.block for site in sites if site.role == "joint_q"}
    joined = {site.block for site in sites if site.role in _JOINED}

    def rows(site: Site) -> int:
        if site.block in joined:
            return tokens + text
        two_streams = site.block in streams and site.role == "cross_out"
        of_text = two_streams or site.role in _OF_TEXT or "text" in site.input_of
        return text if of_text else tokens

    return {
        site.input_of: InputShape(rows(site), site.in_features)
        for site in sites
        if site.kept_reason is None
    }, frames


_OF_TEXT = ("cross_k", "cross_v", "context_fc1", "context_fc2")
_JOINED = ("single_in", "single_out")  # of blocks that read picture and text as one sequence
