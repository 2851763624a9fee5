"""How the codebooks are used: codewords that no sub-vector takes, and how even the others are taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...plots import learning as plots
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from .learned import drawn, from_0_to_100, grid_of, label_of
from .opened import Opened, View
from .ranks import layer_of, layer_pick
from .selection import Selection

VIEW = View("codewords", "Use of the codewords", 30, None, keys=("layer",), learned="sites.used")
LEDE = "A codeword that no sub-vector takes is stored for nothing. Bits that the codes are worth fall with how unevenly codewords are used."
HEIGHT = 280


def section(opened: Opened, chosen: Selection) -> Section:
    """A map of all layers, and the histogram of one of them."""
    found = opened.learned
    assert found is not None
    sites = found.last("sites")
    layer = layer_of(sites, chosen)
    source = found.source(opened.study, "measured")
    worth = {n: own.get("worth") for n, own in sites.items()}
    if any(v is not None for v in worth.values()):
        every = grid_of(worth, "bits", "linear", HEIGHT, "codewords", f"Bits that a code of {len(sites)} layers is worth", source, layer)  # fmt: skip
        every |= {"title": "What a code is worth", "lede": "Bits: the entropy of how often each codeword is taken. Click a layer to look at it."}  # fmt: skip
    else:
        used = {n: None if own.get("used") is None else 100 * float(own["used"]) for n, own in sites.items()}  # fmt: skip
        every = grid_of(used, "% of codewords used", "linear", HEIGHT, "codewords", f"Share of codewords in use, {len(sites)} layers", source, layer)  # fmt: skip
        from_0_to_100(every["figure"])
        every |= {"title": "Codewords in use", "lede": "Share of the codebook, %. Click a layer to look at it."}  # fmt: skip
    figures = [every]
    counts = [float(c) for c in sites[layer].get("counts") or []]
    if counts:
        figures.append(
            plot(
                f"Codewords of {label_of(layer)}",
                plots.uses(counts),
                alt=f"How many sub-vectors of {label_of(layer)} take a codeword, most used first: from {short(counts[0])} down to {short(counts[-1])}; alike would be {short(sum(counts) / len(counts))}",
                height=HEIGHT,
                source=source,
                part="codewords-layer",
                lede=_evenness(sites[layer]),
                raw=[{"layer": layer, "group": k + 1, "of_groups": len(counts), "mean_uses": c} for k, c in enumerate(counts)],
            )
        )  # fmt: skip
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        figures,
        picks=[layer_pick(sites, layer)],
        words=_words(sites),
        table=_table(sites, source),
        beside=len(figures) > 1,
    )


def _evenness(own: Mapping[str, Any]) -> str:
    dead, worth = int(own.get("dead") or 0), own.get("worth")
    said = f"{dead} unused" if dead else "None is unused"
    return f"{said}; codes are worth {short(float(worth))} bits." if worth is not None else f"{said}."  # fmt: skip


def _words(sites: Mapping[str, Any]) -> list[str]:
    dead = {n: int(own["dead"]) for n, own in sites.items() if own.get("dead") is not None}
    if not dead:
        return []
    total = sum(dead.values())
    if not total:
        return [f"No codeword of {len(dead)} codebooks is unused."]
    most = max(dead, key=lambda n: dead[n])
    return [f"{total} codewords of {len(dead)} codebooks are unused, most of them in {label_of(most)}: {dead[most]}."]  # fmt: skip


def _table(sites: Mapping[str, Any], source: Any) -> Section:
    rows, raw = [], []
    for name, own in sites.items():
        bits, share = own.get("worth"), own.get("used")
        rows.append(
            {
                "cells": [
                    cell(label_of(name), name),
                    cell("–" if share is None else f"{short(100 * share)} %"),
                    cell(str(own.get("dead", "–"))),
                    cell("–" if bits is None else short(bits)),
                ]
            }
        )
        raw.append({"layer": name, "used": share, "dead": own.get("dead"), "bits_worth": bits})
    return table(
        "Codebooks, as a table",
        (Column("Layer"), Column("In use"), Column("Unused"), Column("Worth", "bits", "entropy of the codes")),
        rows,
        raw=raw,
        source=source,
        part="codewords-table",
    )  # fmt: skip
