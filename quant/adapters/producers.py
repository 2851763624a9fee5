"""Where an input's channels are made, and who reads them: what it takes to rescale a channel exactly.

Two kinds of tensors in a diffusion transformer are made by something linear in every channel:

    modulated   x = norm(h) * (1 + scale) + shift        scale, shift: rows of an adaLN linear (+ a table)
    attended    x = softmax(..) . V                      channel c of x is row c of the value projections

A family's adapter lists them as patterns inside a block; `resolve` finds them in a transformer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn


@dataclass(frozen=True)
class Modulated:
    """Pattern: the linears matching `feeds` read norm(h) * (1 + scale) + shift."""

    feeds: str  # names inside a block
    linear: str  # adaLN linear inside a block; a leading "/" counts from the transformer
    chunks: tuple[int, ...]  # this pattern holds where the linear's output has so many chunks
    shift: int  # which chunk
    scale: int
    table: str = ""  # parameter [chunks, c] of the block that is added to the linear's output
    also: tuple[tuple[int, int], ...] = ()  # shift and scale of other tokens of the same input


@dataclass(frozen=True)
class Attended:
    """Pattern: the linears matching `feeds` read, in their first columns, what attention made of `values`."""

    feeds: str
    values: tuple[str, ...]  # value projections; one that a block does not have is passed over


@dataclass(frozen=True)
class Modulation:
    """The rows that make a modulated tensor, [first, first + channels) of each."""

    linear: str  # full name of the adaLN linear
    shift: int  # first row
    scale: int
    tables: tuple[tuple[str, int, int], ...] = ()  # full parameter name, its shift and scale row
    also: tuple[tuple[int, int], ...] = ()  # first shift and scale row for other tokens


@dataclass(frozen=True)
class Producer:
    """One tensor, or several that the same rows make: its channels, its makers, its readers."""

    name: str
    channels: int
    made_by: Modulation | tuple[str, ...]  # or full names of value projections
    read_by: tuple[str, ...]  # every linear that reads it, full names


def resolve(
    patterns: Sequence[Modulated | Attended], transformer: nn.Module, blocks: Iterable[str]
) -> list[Producer]:
    """The producers of a transformer, in module order; tensors made by the same rows are one producer.

    Args:
        patterns: of the family.
        transformer: whose names are looked up.
        blocks: full names of the blocks, e.g. "transformer_blocks.0".
    """
    found: dict[str, Producer] = {}
    for block in blocks:
        linears = _linears(transformer.get_submodule(block))
        for pattern in patterns:
            feeds = tuple(f"{block}.{n}" for n in linears if re.fullmatch(pattern.feeds, n))
            if not feeds:
                continue
            producer = (
                _modulated(pattern, transformer, block, feeds)
                if isinstance(pattern, Modulated)
                else _attended(pattern, linears, block, feeds)
            )
            if producer is not None:
                known = found.get(producer.name)
                found[producer.name] = producer if known is None else _joined(known, producer)
    return list(found.values())


def _linears(block: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) or hasattr(module, "dqviz_site")
    }


def _modulated(
    pattern: Modulated, transformer: nn.Module, block: str, feeds: tuple[str, ...]
) -> Producer | None:
    linear = pattern.linear[1:] if pattern.linear.startswith("/") else f"{block}.{pattern.linear}"
    module = _module(transformer, linear)
    if not isinstance(module, nn.Linear):
        return None
    width = int(transformer.get_submodule(feeds[0]).in_features)  # type: ignore[arg-type]
    if module.out_features not in [n * width for n in pattern.chunks]:
        return None
    tables = ()
    if pattern.table:
        tables = ((f"{block}.{pattern.table}", pattern.shift, pattern.scale),)
    also = tuple((shift * width, scale * width) for shift, scale in pattern.also)
    rows = Modulation(linear, pattern.shift * width, pattern.scale * width, tables, also)
    return Producer(f"{linear}/{pattern.scale}", width, rows, feeds)


def _attended(
    pattern: Attended, linears: dict[str, nn.Module], block: str, feeds: tuple[str, ...]
) -> Producer | None:
    values = [name for name in pattern.values if name in linears]
    if not values:
        return None
    width = int(linears[values[0]].out_features)  # type: ignore[arg-type]
    names = tuple(f"{block}.{name}" for name in values)
    return Producer(names[0], width, names, feeds)


def _joined(first: Producer, second: Producer) -> Producer:
    """Two blocks whose tensors are made by the same rows."""
    assert isinstance(first.made_by, Modulation)
    assert isinstance(second.made_by, Modulation)
    rows = replace(first.made_by, tables=first.made_by.tables + second.made_by.tables)
    return replace(first, made_by=rows, read_by=first.read_by + second.read_by)


def _module(transformer: nn.Module, name: str) -> nn.Module | None:
    try:
        return transformer.get_submodule(name)
    except AttributeError:
        return None
