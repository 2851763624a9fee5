"""The page as a whole: its headline, what can be chosen, and the sections of its views."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from quant import probes
from quant.probes import ProbeCard

from ..activations.selection import block_label
from ..view import Section, synthetic_badges
from .opened import Opened, View
from .selection import Selection


@cache
def views() -> tuple[ModuleType, ...]:
    """Every view's module, in the order in which the page shows them."""
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")
    modules = [importlib.import_module(f".{name}", __package__) for name in names]
    found = [m for m in modules if isinstance(getattr(m, "VIEW", None), View)]
    return tuple(sorted(found, key=lambda m: m.VIEW.place))


def shown(opened: Opened) -> list[ModuleType]:
    """The views that have something to show of this study and method."""
    cards = probes.list_probes(opened.method)

    def has(view: View) -> bool:
        if view.learned is not None:
            found = opened.learned
            return opened.learns and (
                not view.learned or (found is not None and found.has(view.learned))
            )
        if view.probe is None:
            return not opened.learns and (not view.methods or opened.method in view.methods)
        return view.probe in cards and view.probe in opened.probes

    return [m for m in views() if has(m.VIEW)]


def views_of(opened: Opened) -> list[str]:
    """Keys of the views that have something to show, in order."""
    return [m.VIEW.key for m in shown(opened)]


def sections(
    opened: Opened, chosen: Selection, only: Collection[str] | None = None
) -> list[Section]:
    """What the views show, each with its `key`; of all views, or of those named."""
    wanted = [m for m in shown(opened) if only is None or m.VIEW.key in only]
    return [{**m.section(opened, chosen), "key": m.VIEW.key} for m in wanted]


def missing(opened: Opened) -> list[ProbeCard]:
    """Probes of the method that the study lacks at these bits, and that a view would show."""
    drawn = {m.VIEW.probe for m in views()}
    cards = probes.list_probes(opened.method)
    return [c for key, c in cards.items() if key in drawn and key not in opened.probes]


def headline(opened: Opened) -> Section:
    """Which model, method and bits, and from how much."""
    facts = [f"{opened.method_title} at {opened.bits}"]
    for probed in opened.probes.values():
        facts += [f"{probed.record['samples']} samples", f"{probed.record['steps']} steps"]
        break
    if opened.learned is not None:
        facts.append(f"learned on {opened.learned.record.get('device', 'an unknown device')}")
    if opened.inputs:
        facts.append(f"{len(opened.inputs)} inputs of {sum(len(e.sites) for e in opened.inputs)} layers")  # fmt: skip
    return {
        "kind": "headline",
        "title": opened.model,
        "facts": facts,
        "badges": synthetic_badges(opened.model_facts),
        "claims": [],
        "notes": [],
    }


def controls(opened: Opened) -> dict[str, Any]:
    """What can be chosen, for the widgets: key -> options of (value, label, heading)."""
    return {
        "site": [(e.name, opened.labels[e.name], block_label(e.block)) for e in opened.inputs],
        "window": [(str(k), w.label, "") for k, w in enumerate(opened.windows)],
        "views": [[m.VIEW.key, m.VIEW.title] for m in shown(opened)],
        "keys": sorted({key for m in views() for key in m.VIEW.keys}),
    }
