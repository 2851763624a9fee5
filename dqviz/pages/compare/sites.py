"""Scope: which linear layers were quantized, what they ran on, and why the others were not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..exports import Source
from ..view import Column, Section, cell, table
from .names import Run, full_name


def scope(runs: Sequence[Run], source: Source) -> Section:
    """Which kinds of sites were quantized in which run, which were kept and why."""
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(n for r in runs for n in (*_quantized(r), *_kept(r))):
        kinds.setdefault(_kind(name), []).append(name)
    inside = [set(_quantized(r)) for r in runs]
    same = all(names == inside[0] for names in inside)
    shown = inside[:1] if same else inside
    labels = ["Quantized"] if same else [full_name(r) for r in runs]
    rows = []
    for kind, names in kinds.items():
        whys = dict.fromkeys(w for r in runs for n, w in _kept(r).items() if n in set(names))
        rows.append(
            {
                "cells": [
                    cell(kind),
                    cell(str(len(names))),
                    *(cell(str(sum(n in quantized for n in names))) for quantized in shown),
                    cell(f"kept: {'; '.join(whys)}" if whys else "", words=True),
                ]
            }
        )
    everything = [n for names in kinds.values() for n in names]
    return table(
        "Scope",
        (
            Column("Kind of site"),
            Column("Sites"),
            *(Column(label, "", "sites of this kind that were quantized") for label in labels),
            Column("Why not", words=True),
        ),
        rows,
        lede="Which linear layers were quantized, and why the others were not."
        + (" The same in every run." if same and len(runs) > 1 else ""),
        raw=_raw_scope(runs),
        source=source,
        part="scope",
        details=[
            {
                "summary": f"All {len(everything)} sites by name",
                "lines": [_site_line(n, runs, inside) for n in everything],
            }
        ],
    )


def _kind(name: str) -> str:
    """A site's name with its numbers left out: `transformer_blocks.*.attn1.to_q`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _site_line(name: str, runs: Sequence[Run], inside: Sequence[set[str]]) -> str:
    """A site with the runs that kept it, and what it ran on in the others, and why."""
    without = [full_name(r) for r, quantized in zip(runs, inside) if name not in quantized]
    said = []
    if without:
        said = [f"kept{'' if len(without) == len(runs) else ' by ' + ', '.join(without)}"]
    said += dict.fromkeys(why for run in runs if (why := _why(run).get(name)))
    return f"{name}  ({'; '.join(said)})" if said else name


def _raw_scope(runs: Sequence[Run]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        rows += [
            {"run": run["name"], "site": s, "quantized": 1, "why": _why(run).get(s, "")}
            for s in _quantized(run)
        ]
        rows += [
            {"run": run["name"], "site": s, "quantized": 0, "why": w} for s, w in _kept(run).items()
        ]
    return rows


def _quantized(run: Run) -> list[str]:
    return [str(s) for s in (run.get("scope") or {}).get("quantized") or ()]


def _why(run: Run) -> dict[str, str]:
    """What each quantized site ran on, and why; studies of older versions do not say."""
    why = (run.get("scope") or {}).get("why") or {}
    return {str(k): str(v) for k, v in why.items()}


def _kept(run: Run) -> dict[str, str]:
    kept = (run.get("scope") or {}).get("kept") or {}
    return {str(k): str(v) for k, v in kept.items()}
