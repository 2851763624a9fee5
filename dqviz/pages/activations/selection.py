"""What a view of a capture is of: everything that its link names, checked against the capture.

A link comes from anywhere. What it names and the capture does not have is left out with a sentence
that says so; the rest of the link still holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quant.summaries import STATISTICS

from ...seen_file import InputEntry, SeenFile
from .grids import SCALES

BRANCHES = ("conditional", "unconditional")
DIFFERENCE = "difference"
BITS = (4, 6, 8)
FORMATS = {"sym": "symmetric", "asym": "asymmetric"}
COVERS = {"100": 1.0, "99.9": 0.999, "99": 0.99}
CHOICES: dict[str, tuple[str, ...]] = {
    "format": tuple(FORMATS),
    "scale": tuple(SCALES),
    "cover": tuple(COVERS),
    "order": ("channel", "size"),
    "axis": ("linear", "log"),
    "surface": ("flat", "3d"),
    "map": ("heatmap", "table", "weights"),
}
ALL_ROWS = "all"
PARTS = {  # by the beginning of a role
    "self": "self-attention",
    "temporal": "temporal attention",
    "cross": "cross-attention",
    "joint": "joint attention",
    "single": "single-stream layers",
    "feed": "feed-forward",
    "context": "feed-forward, its text side",
    "rest": "conditioning, embedders, head",
}


@dataclass(frozen=True)
class Selection:
    """One view; the fields after `stage` say how things are drawn."""

    statistic: str
    rows: str  # "all", "part:temporal", "group:visual", "role:fc2" or "block:3"
    site: str  # name of the input
    step: int
    branch: str  # conditional, unconditional, difference
    stage: str
    bits: int = 4
    format: str = "sym"
    scale: str = "row"
    cover: str = "100"
    order: str = "channel"
    axis: str = "linear"
    surface: str = "flat"
    map: str = "heatmap"

    @property
    def branch_index(self) -> int:
        """The branch whose values panels show; the conditional one for the difference."""
        return 1 if self.branch == BRANCHES[1] else 0

    @property
    def symmetric(self) -> bool:
        """Whether the grid is the same on both sides of zero."""
        return self.format == "sym"

    def to_json(self) -> dict[str, Any]:
        """As in a link."""
        return dict(vars(self))


def select(query: Mapping[str, Any], seen: SeenFile) -> tuple[Selection, list[str]]:
    """The selection that a link asks for, and a sentence for each part of it that cannot be had."""
    notes: list[str] = []

    def pick(key: str, allowed: Iterable[str], default: str) -> str:
        value = query.get(key)
        if value is None or value == "":
            return default
        listed = list(allowed)
        if isinstance(value, (str, int, float)) and str(value) in listed:
            return str(value)
        notes.append(f"{key} {_quoted(value)} is not in this capture; showing {default}.")
        return default

    statistic = pick("statistic", STATISTICS, "incoherence")
    stage = pick("stage", seen.stages, seen.stages[0])
    branches = (*BRANCHES, DIFFERENCE) if seen.branches > 1 else BRANCHES[:1]
    branch = pick("branch", branches, BRANCHES[0])
    rows = pick("rows", (ALL_ROWS, *(key for key, _, _ in row_filters(seen))), ALL_ROWS)
    first_site, first_step = peak(seen, cells(seen, statistic, stage, branch), rows)
    site = _site(query.get("site"), seen, first_site, notes)
    step = _step(query.get("step"), seen, first_step if site == first_site else None, notes)
    chosen = {key: pick(key, allowed, allowed[0]) for key, allowed in CHOICES.items()}
    bits = int(pick("bits", map(str, BITS), str(BITS[0])))
    return Selection(statistic, rows, site, step, branch, stage, bits, **chosen), notes


def _quoted(value: object) -> str:
    text = str(value) if isinstance(value, (str, int, float)) else type(value).__name__
    printable = "".join(c if c.isprintable() else "?" for c in text[:60])
    return f"'{printable}{'…' if len(text) > 60 else ''}'"


def _site(value: object, seen: SeenFile, default: str, notes: list[str]) -> str:
    if value is None or value == "":
        return default
    try:
        return seen.entry(str(value)).name if isinstance(value, str) else _missing()
    except KeyError:
        notes.append(f"site {_quoted(value)} is not in this capture; showing {default}.")
        return default


def _missing() -> str:
    raise KeyError


def _step(value: object, seen: SeenFile, default: int | None, notes: list[str]) -> int:
    first = 0 if default is None else default
    if value is None or value == "":
        return first
    try:
        step = int(value) if isinstance(value, (str, int)) else -1
    except ValueError:
        step = -1
    if 0 <= step < seen.steps:
        return step
    notes.append(f"step {_quoted(value)} is not in this capture (0 to {seen.steps - 1}); showing {first}.")  # fmt: skip
    return first


# -- rows of the heatmap ---------------------------------------------------------------------------


def ordered(seen: SeenFile) -> list[int]:
    """Places of the inputs as they are shown: block by block, inside in the capture's order."""
    last = max((e.block for e in seen.inputs if e.block is not None), default=0) + 1
    keys = [(last if e.block is None else e.block, i) for i, e in enumerate(seen.inputs)]
    return [i for _, i in sorted(keys)]


def kept_rows(seen: SeenFile, rows: str) -> list[int]:
    """Places of the inputs that a filter keeps, in order."""
    kind, _, wanted = rows.partition(":")
    tests = {
        "part": lambda e: part_of(e) == wanted,
        "role": lambda e: kind_label(e) == wanted,
        "group": lambda e: e.group == wanted,
        "block": lambda e: str(e.block) == wanted,
    }
    test = tests.get(kind)
    return [i for i in ordered(seen) if test is None or test(seen.inputs[i])]


def row_filters(seen: SeenFile) -> list[tuple[str, str, str]]:
    """Filters that make sense here: key, label, heading."""
    entries = [seen.inputs[i] for i in ordered(seen)]
    found: list[tuple[str, str, str]] = []
    parts = list(dict.fromkeys(part_of(e) for e in entries))
    kinds = list(dict.fromkeys(kind_label(e) for e in entries))
    groups = list(dict.fromkeys(e.group for e in entries))
    blocks = list(dict.fromkeys(e.block for e in entries))
    if len(parts) > 1:
        found += [(f"part:{p}", part_label(p, parts), "Part of the network") for p in parts]
    if len(kinds) > 1:
        found += [(f"role:{k}", k, "Kind of site") for k in kinds]
    if len(groups) > 1:
        found += [(f"group:{g}", g, "Metric group") for g in groups]
    if len(blocks) > 1:
        found += [(f"block:{b}", block_label(b), "Block") for b in blocks]
    return found


def part_of(entry: InputEntry) -> str:
    """Which part of the network reads an input: the kind of attention, the feed-forward layers, the rest."""
    head = entry.role.partition("_")[0]
    return {"fc1": "feed", "fc2": "feed"}.get(head, head if head in PARTS else "rest")


def part_label(part: str, parts: Iterable[str]) -> str:
    """A part in words, in a network that has these parts: what self-attention is beside another kind."""
    if part == "self" and "temporal" in parts:
        return "spatial attention"
    if part == "cross" and "joint" in parts:
        return "joint attention, its text side"
    return PARTS[part]


def block_label(block: int | None) -> str:
    """`block 3`."""
    return "outside the blocks" if block is None else f"block {block}"


def kind_label(entry: InputEntry) -> str:
    """What reads an input, in few words: `self q k v`, `fc2`."""
    heads = {role.rpartition("_")[0] for role in entry.roles}
    if entry.role == "unknown":
        return entry.sites[0].rpartition(".")[2] if entry.sites else entry.name
    if len(heads) == 1 and len(entry.roles) > 1:
        head = heads.pop()
        ends = dict.fromkeys(role.rpartition("_")[2] for role in entry.roles)
        return " ".join([head, *ends]).strip()
    return " ".join(dict.fromkeys(role.replace("_", " ") for role in entry.roles))


def labels(seen: SeenFile) -> list[str]:
    """A label per input, in the capture's order, each of them once."""
    short = [f"{block_label(e.block)} · {kind_label(e)}" for e in seen.inputs]
    return [
        text if short.count(text) == 1 else f"{text} · {entry.name}"
        for text, entry in zip(short, seen.inputs)
    ]


def cells(seen: SeenFile, statistic: str, stage: str, branch: str) -> np.ndarray:
    """What the heatmap shows, for all inputs in the capture's order: [inputs, steps]."""
    values = seen.summary(statistic, stage).astype(np.float64)  # [inputs, steps, branches]
    if branch == DIFFERENCE:
        return values[..., 0] - values[..., 1]
    return values[..., BRANCHES.index(branch)]


def peak(seen: SeenFile, values: np.ndarray, rows: str) -> tuple[str, int]:
    """Name and step of the cell that is farthest from zero among the kept rows."""
    kept = kept_rows(seen, rows)
    sizes = np.abs(values[kept])
    if not np.isfinite(sizes).any():
        return seen.inputs[kept[0]].name, 0
    row, step = np.unravel_index(np.nanargmax(sizes), sizes.shape)
    return seen.inputs[kept[int(row)]].name, int(step)
