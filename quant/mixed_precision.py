"""From a table of sensitivities to formats under budgets, and to a plan. No torch in here.

    minimise    sum_i cost_i(c_i)            cost: of the cell alone, by one metric of the table
    subject to  avg_bits         sum_i n_i b_i / sum_i n_i                        weights i with n_i numbers
                activation_bits  sum_j m_j f_j b_j / sum_j m_j f_j                inputs j: m_j numbers in a share f_j of the steps
                size_mb          10^6 bytes of the transformer's file
                latency_ratio    predicted seconds of one evaluation over those in full precision (`quant.latency`)

Costs are those of a typical sample (`quant.typical_costs`). Weights are decided once, from the cells of all steps; activations for every window, from its cells. An activation of
16 bits keeps the one stored weight and costs nothing in quality: without a budget that counts activations it is
what is chosen. Costs of single cells are expected to add up, which `quant.loss_calibration` holds against plans that were drawn.

What is not decided (kept layers, attention, the file's header) is one item with one choice, `THE_REST`, so budgets are of
the whole transformer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from .blueprint import Blueprint, SiteFacts
from .cards import Card, methods
from .decisions import Choice, Item, Key, Label, Operand, Pair, Problem
from .errors import BadInput, unknown
from .latency import Latency, Layer
from .pins import label_of, pinned, tied
from .roofline import Attention
from .schema import Bits, Format, Plan, SitePlan
from .sensitivity.cells import KEPT, Cell, Row, format_of
from .support import unfit
from .typical_costs import typical_costs

BUDGETS = ("avg_bits", "activation_bits", "size_mb", "latency_ratio")
BITS_OF: dict[Operand, str] = {"weight": "avg_bits", "activation": "activation_bits"}
THE_REST = Key("everything else")
FULL = int(KEPT)  # label of a side that stays in 16 bit
MB = 10**6
METRICS = ("latent_error",)  # by which formats are chosen, where a table has it; else by its first


@dataclass(frozen=True)
class Posed:
    """A table as decisions."""

    blueprint: Blueprint
    metric: str
    problem: Problem
    samples: Mapping[tuple[Key, Label], tuple[float, ...]]  # cost of a choice in every sample
    remarks: tuple[str, ...] = ()  # of how pins were written

    @property
    def decides_inputs(self) -> bool:
        """Whether any input may be anything but 16 bits."""
        inputs = (i for i in self.problem.items if i.key.operand == "activation")
        return any(len(item.choices) > 1 for item in inputs)

    def cost(self, chosen: Mapping[Key, Label]) -> float:
        """Of a plan: the sum over its cells."""
        losses = {i.key: {c.label: c.loss for c in i.choices} for i in self.problem.items}
        return fsum(losses[key][label] for key, label in chosen.items())

    def used(self, chosen: Mapping[Key, Label]) -> dict[str, float]:
        """What a plan takes of every resource."""
        found: dict[str, list[float]] = {name: [] for name in self.problem.resources}
        for item in self.problem.items:
            for name, use in next(
                c.uses for c in item.choices if c.label == chosen[item.key]
            ).items():
                found[name].append(use)
        for pair in self.problem.pairs:
            found[pair.resource].append(pair.table[chosen[pair.first], chosen[pair.second]])
        return {name: fsum(uses) for name, uses in found.items()}

    def layers(self, chosen: Mapping[Key, Label]) -> list[Layer]:
        """Every layer with the bits that a plan computes it with in some window; those that are kept too."""
        found = []
        for site in self.blueprint.sites:
            weight = chosen.get(Key(site.name), FULL)
            inputs = (Key(site.name, "activation", k) for k in range(len(self.blueprint.windows)))
            bits = {_bits(weight, chosen.get(key, FULL)) for key in inputs}  # pyright: ignore[reportUnhashable]
            found.append((shape_of(self.blueprint, site), bits))
        return found

    def costs(self, chosen: Mapping[Key, Label]) -> np.ndarray | None:
        """The same for every sample, float64[n]; None where the table has no samples."""
        told = [self.samples.get(way, ()) for way in chosen.items() if self._measured(way)]
        counts = {len(values) for values in told}
        if len(counts) != 1 or counts == {0}:
            return None
        return np.sum(np.array(told), axis=0)

    def _measured(self, way: tuple[Key, Label]) -> bool:
        key, label = way
        return key != THE_REST and label != FULL

    def neighbours(self, chosen: Mapping[Key, Label]) -> dict[Cell, tuple[Key, Label]]:
        """Every other choice of every item of a plan, as the cell that it is.

        Sites whose weight the plan keeps in 16 bit, and choices that would, are left out.
        """
        found = {}
        for item in self.problem.items:
            key = item.key
            if key == THE_REST or chosen[Key(key.site)] == FULL:
                continue
            for label in item.labels:
                if label != chosen[key] and (key.operand == "activation" or label != FULL):
                    cell = _cell(self.blueprint, key, str(label))
                    found[cell] = key, label
        return found

    def relinearised(
        self, chosen: Mapping[Key, Label], changes: Mapping[tuple[Key, Label], float]
    ) -> Problem:
        """The same decisions with the costs that choices have beside a plan: what they change of its loss.

        Half of each is the difference of the table's costs, half the measured change: both are estimates from
        few samples, and what solves for one of them alone follows its noise into plans that were never
        measured. A choice without a change keeps the table's difference. Counted from the least of every
        item, since costs are not negative.
        """
        items = []
        for item in self.problem.items:
            own = next(c.loss for c in item.choices if c.label == chosen[item.key])
            moved = {
                c.label: (c.loss - own + changes.get((item.key, c.label), c.loss - own)) / 2
                for c in item.choices
            }
            least = min(moved.values())
            choices = tuple(replace(c, loss=moved[c.label] - least) for c in item.choices)
            items.append(replace(item, choices=choices))
        return replace(self.problem, items=tuple(items))

    def plan(self, chosen: Mapping[Key, Label]) -> Plan:
        """As `quantize` takes it; sites that keep both sides in 16 bit are not in it."""
        windows = self.blueprint.windows
        sites = {}
        for site in dict.fromkeys(key.site for key in chosen if key != THE_REST):
            weight = _format(chosen[Key(site)], "weight")
            inputs = (chosen[Key(site, "activation", k)] for k in range(len(windows)))
            planned = SitePlan(
                weight=weight, activations=tuple(_format(b, "activation") for b in inputs)
            )
            if planned.quantized:
                sites[site] = planned
        return Plan(
            model=self.blueprint.model,
            windows=windows,
            sampler=self.blueprint.sampler.fingerprint if len(windows) > 1 else None,
            sites=sites,
        )


def posed(
    blueprint: Blueprint,
    rows: Iterable[Row],
    *,
    metric: str | None = None,
    device: Latency | None = None,
    pins: Iterable[str] = (),
    ties: Iterable[str] = (),
) -> Posed:
    """The decisions that a table is about.

    Args:
        blueprint: of its model.
        rows: of one sweep.
        metric: whose values are the costs; by default the first of `METRICS` that the table has, else its first.
        device: whose seconds `latency_ratio` is told by; None: there is no such budget.
        pins: `PATTERN=w8a8`, `PATTERN=w8`, `PATTERN=a8`, `PATTERN@2=a8` (of window 2).
        ties: `qkv`, or a pattern: the sites that it finds take the same bits.

    Raises BadInput for metrics that the table lacks, patterns that find nothing and pins that cannot be.
    """
    rows = list(rows)
    metric = _metric(rows, metric)
    values = typical_costs(r for r in rows if r.metric == metric)
    card = methods()[blueprint.method]
    names = list(dict.fromkeys(cell.site for cell in values))
    sites = [s for s in blueprint.sites if s.name in set(names)]
    offered = {
        operand: tuple(dict.fromkeys(str(c.bits) for c in values if c.operand == operand))
        for operand in ("weight", "activation")
    }
    whole = fsum(s.weights for s in sites)
    elements = fsum(s.rows * s.in_features for s in sites)
    full_seconds = None if device is None else _seconds(blueprint, device, ())
    items, samples = [], {}
    for site in sites:
        keys = [(Key(site.name), site.weights / whole)]
        for k, share in enumerate(blueprint.shares):
            size = site.rows * site.in_features * share / elements
            keys.append((Key(site.name, "activation", k), size))
        for key, size in keys:
            items.append(_item(blueprint, card, key, size, offered[key.operand], values, samples))
    rest = {"size_mb": blueprint.rest_bytes / MB}
    pairs: list[Pair] = []
    if device is not None and full_seconds is not None and _counted(offered):
        rest["latency_ratio"] = _seconds(blueprint, device, names) / full_seconds
        pairs = _pairs(blueprint, sites, items, device, full_seconds)
    fixed = pinned(items, pins)
    problem = Problem(
        items=(*items, Item(THE_REST, (Choice("kept", 0.0, rest),))),
        pairs=tuple(pairs),
        pins=fixed.labels,
        ties=tied(sites, len(blueprint.windows), ties),
    )
    return Posed(blueprint, metric, problem, samples, fixed.remarks)


def _metric(rows: Sequence[Row], metric: str | None) -> str:
    there = list(dict.fromkeys(row.metric for row in rows))
    if not there:
        raise BadInput("the table has no rows; sweep first: dqviz sensitivity")
    if metric is None:
        return next((m for m in METRICS if m in there), there[0])
    if metric not in there:
        raise unknown("metric", metric, there, f"The table has: {', '.join(there)}")
    return metric


def _item(
    blueprint: Blueprint,
    card: Card,
    key: Key,
    size: float,
    offered: Sequence[str],
    values: Mapping[Cell, Row],
    samples: dict[tuple[Key, Label], tuple[float, ...]],
) -> Item:
    """What one operand of one site may be; `size` is its share of all numbers of that operand."""
    choices, illegal = [], {}
    of_weight = key.operand == "weight"
    bits = offered if of_weight else tuple(dict.fromkeys((*offered, KEPT)))
    for text in bits:
        label, fmt = label_of(text), format_of(text, key.operand)
        why = unfit(card, fmt, None) if of_weight else unfit(card, None, fmt)
        row = values.get(_cell(blueprint, key, text))
        told = None if row is None else row.value
        if fmt is not None and (why or told is None):
            illegal[label] = why or "no number was measured"
            continue
        width = int(KEPT) if fmt is None else fmt.bits
        uses = {BITS_OF[key.operand]: width * size}
        if of_weight:
            uses["size_mb"] = blueprint.bytes[key.site][text] / MB
        choices.append(Choice(label, max(0.0, told or 0.0), uses))
        known = () if row is None else tuple(v for v in row.per_sample if v is not None)
        if row is not None and len(known) == len(row.per_sample):
            samples[key, label] = known
    return Item(key, tuple(choices), illegal)


def _cell(blueprint: Blueprint, key: Key, bits: str) -> Cell:
    """Of a decision; in a single window it is that of all steps."""
    window = key.window if len(blueprint.windows) > 1 else None
    return Cell(site=key.site, operand=key.operand, window=window, bits=bits)


def _format(label: Label, operand: str) -> Format | None:
    return format_of(str(label), operand)  # type: ignore[arg-type]


def _counted(offered: Mapping[str, Sequence[str]]) -> bool:
    """Whether all formats are integers, whose seconds are known."""
    return all(text.isdigit() for texts in offered.values() for text in texts)


def shape_of(blueprint: Blueprint, site: SiteFacts) -> tuple[int, int, int]:
    """Rows of all branches of one sample, inputs and outputs of a layer."""
    return blueprint.branches * site.rows, site.in_features, site.out_features


def _seconds(blueprint: Blueprint, device: Latency, without: Iterable[str]) -> float:
    """Seconds of one evaluation in full precision, of one sample, some sites left out."""
    left = set(without)
    sites = [
        device.site_seconds(*shape_of(blueprint, s)) for s in blueprint.sites if s.name not in left
    ]
    attentions = [
        device.attention_seconds(Attention(**a.model_dump()), blueprint.branches)
        for a in blueprint.attentions
    ]
    return fsum([*sites, *attentions])


def _pairs(
    blueprint: Blueprint,
    sites: Sequence[SiteFacts],
    items: Sequence[Item],
    device: Latency,
    full: float,
) -> list[Pair]:
    """What weight and input take together in every window: products of integers need both."""
    labels = {item.key: item.labels for item in items}
    found = []
    for site in sites:
        for k, share in enumerate(blueprint.shares):
            first, second = Key(site.name), Key(site.name, "activation", k)
            table = {
                (w, a): share / full * device.site_seconds(*shape_of(blueprint, site), _bits(w, a))
                for w in labels[first]
                for a in labels[second]
            }
            found.append(Pair(first, second, "latency_ratio", table))
    return found


def _bits(weight: Label, activation: Label) -> Bits | None:
    """Of a site; one whose weight is in 16 bit computes in 16 bit."""
    if weight == FULL:
        return None
    return Bits(weight=int(weight), activation=None if activation == FULL else int(activation))
