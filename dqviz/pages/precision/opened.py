"""One table of a study as the page shows it, and plans as the browser writes them.

A plan travels as `{"weight": [label of every site], "activation": [[label of every site] of every window]}`, sites
in the order of the table. Cells are numbered site by site: site * (1 + windows) + column, column 0 the weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quant.blueprint import Blueprint, SiteFacts
from quant.decisions import Key, Label
from quant.errors import BadInput
from quant.latency import latency_of
from quant.mixed_precision import THE_REST, Posed, posed
from quant.schema import Plan
from quant.sensitivity.cells import KEPT, Row, format_of
from quant.sensitivity.table import rows_of

from ..exports import Source

DEVICE = "a100-80gb"  # whose latency is shown first


@dataclass(frozen=True)
class Opened:
    """A finished sweep of a study."""

    study: str  # its listed name
    folder: Path  # that commands name
    title: str  # of the model
    row: Mapping[str, Any]  # of the sweep: name, key, tier, method, record
    blueprint: Blueprint
    lines: Sequence[Mapping[str, Any]]  # the flat table
    _posed: dict[Any, Posed] = field(default_factory=dict, compare=False)

    @cached_property
    def rows(self) -> list[Row]:
        """The table as rows."""
        return rows_of(self.lines, f"table {self.row['name']}")

    @cached_property
    def sites(self) -> list[SiteFacts]:
        """Those that the table has, in the order of the model."""
        there = {line["site"] for line in self.lines}
        return [site for site in self.blueprint.sites if site.name in there]

    @property
    def columns(self) -> int:
        """The weight, and every window."""
        return 1 + len(self.blueprint.windows)

    @property
    def source(self) -> Source:
        """Where the table's numbers come from."""
        record = self.row["record"]
        seeds = f"{record['samples']} seeds. " if record.get("samples") else ""
        note = f"{seeds}{str(self.row.get('created', ''))[:10]}"
        about = f"{self.study}-{self.row['name']}"
        return Source(about, str(self.row["key"]), (str(record["evidence"]),), note)

    def posed(
        self,
        metric: str | None,
        device: str = DEVICE,
        ties: tuple[str, ...] = (),
        pins: tuple[str, ...] = (),
    ) -> Posed:
        """The decisions that the table is about; pins as a command takes them."""
        key = (metric, device, ties)
        if pins or key not in self._posed:
            found = latency_of(device)
            made = posed(
                self.blueprint, self.rows, metric=metric, device=found, ties=ties, pins=pins
            )
            if pins:
                return made
            self._posed[key] = made
        return self._posed[key]

    def key(self, cell: int) -> Key:
        """The decision that a cell is."""
        site, column = divmod(cell, self.columns)
        if not 0 <= site < len(self.sites):
            raise BadInput(f"there is no cell {cell}; the table has {len(self.sites)} layers")
        name = self.sites[site].name
        return Key(name) if column == 0 else Key(name, "activation", column - 1)

    def chosen(self, plan: object, own: Posed) -> dict[Key, Label]:
        """Decisions from a plan of the browser; BadInput for what the table does not have."""
        written = plan if isinstance(plan, Mapping) else {}
        columns = [written.get("weight"), *_list(written.get("activation"))]
        if len(columns) != self.columns:
            raise BadInput(f"a plan of this table has {self.columns - 1} windows, not {len(columns) - 1}")  # fmt: skip
        offered = {item.key: item for item in own.problem.items}
        found: dict[Key, Label] = {THE_REST: "kept"}
        for column, labels in enumerate(columns):
            labels = _list(labels)
            if len(labels) != len(self.sites):
                raise BadInput(f"a plan of this table has {len(self.sites)} layers, not {len(labels)}")  # fmt: skip
            for site, text in enumerate(labels):
                item = offered[self.key(site * self.columns + column)]
                found[item.key] = label_of(text)
                if found[item.key] not in item.labels:
                    why = item.illegal.get(found[item.key], "the table has no number for it")
                    raise BadInput(f"{item.key.at(found[item.key])} cannot be: {why}")
        return found

    def written(self, chosen: Mapping[Key, Label]) -> dict[str, Any]:
        """Decisions as the browser writes them."""
        columns = [
            [str(chosen[self.key(site * self.columns + c)]) for site in range(len(self.sites))]
            for c in range(self.columns)
        ]
        return {"weight": columns[0], "activation": columns[1:]}

    def of_plan(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A plan of the study as the browser writes it; BadInput where its windows are others."""
        plan: Plan = Plan.parse(data, "the plan")
        if plan.windows != self.blueprint.windows:
            raise BadInput("the plan has other windows than this table")
        labels = {KEPT, *(str(line["bits"]) for line in self.lines)}
        named = {
            (operand, format_of(label, operand)): label
            for operand in ("weight", "activation")
            for label in labels
        }
        weights, inputs = [], [[] for _ in self.blueprint.windows]
        for site in self.sites:
            own = plan.sites.get(site.name)
            formats = [None] * self.columns if own is None else [own.weight, *own.activations]
            told = [named.get(("activation" if c else "weight", f)) for c, f in enumerate(formats)]
            if None in told:
                raise BadInput(f"{site.name} has a format in that plan that this table does not")
            weights.append(told[0])
            for k, window in enumerate(inputs):
                window.append(told[k + 1])
        return {"weight": weights, "activation": inputs}

    def cell(self, key: Key) -> int:
        """The number of a decision's cell."""
        column = 0 if key.window is None else key.window + 1
        return self._places[key.site] * self.columns + column

    @cached_property
    def _places(self) -> dict[str, int]:
        return {site.name: n for n, site in enumerate(self.sites)}

    def pins(self, cells: Iterable[object], chosen: Mapping[Key, Label]) -> dict[Key, Label]:
        """What is pinned, by the numbers of the cells."""
        keys = [self.key(c) for c in cells if isinstance(c, int) and not isinstance(c, bool)]
        return {key: chosen[key] for key in keys}

    def words(self, pins: Mapping[Key, Label]) -> list[str]:
        """Pins as a command takes them: a layer at once, then windows that differ."""
        found = []
        windows = range(len(self.blueprint.windows))
        for name in dict.fromkeys(key.site for key in pins):
            weight = f"w{pins[Key(name)]}" if Key(name) in pins else ""
            keys = {k: key for k in windows if (key := Key(name, "activation", k)) in pins}
            labels = {k: pins[key] for k, key in keys.items()}
            most = Counter(labels.values()).most_common(1)
            common = most[0][0] if most and len(labels) == len(windows) else None
            if weight or common is not None:
                found.append(f"{name}={weight}{'' if common is None else f'a{common}'}")
            found += [f"{name}@{k}=a{b}" for k, b in labels.items() if b != common]
        return found


def label_of(text: object) -> Label:
    """`4`, `fp8`, as decisions name them."""
    return int(text) if isinstance(text, str) and text.isdigit() else str(text)


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else []
