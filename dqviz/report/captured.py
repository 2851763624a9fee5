"""The statistics of a study's latest capture, as far as a report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from quant.schema import fingerprint

from ..pages.activations.selection import block_label, labels
from ..pages.exports import Source
from ..pages.view import Section, plot, synthetic
from ..plots import heatmap, histogram
from ..seen_file import STATISTICS, InputEntry, SeenFile
from ..study import Study

STATISTIC = "incoherence"
MOST_HISTOGRAMS = 3


def captured(study: Study) -> tuple[Section, ...]:
    """Sections of the latest capture; none where there is no capture."""
    listed = study.captures()
    if not listed:
        return ()
    record = listed[-1]
    seen = study.capture(record["name"])
    source = Source(
        about=str(study.manifest["model"].get("key") or "model"),
        recipe=fingerprint(dict(seen.manifest)),
        evidence=(
            str(record["record"].get("evidence") or "measured"),
            *filter(None, [synthetic(record["record"])]),
        ),
        note=f"capture {record['name']}, {record['created'][:10]}",
    )
    values = seen.summary(STATISTIC)[:, :, 0]  # [inputs, steps], the conditional branch
    worst = _worst(seen, values)
    return (_map(seen, values, source), *(_histogram(seen, *place, source) for place in worst))


def _worst(seen: SeenFile, values: np.ndarray) -> list[tuple[InputEntry, int, float]]:
    """The inputs that reach highest, each at the step where it does."""
    known = np.where(np.isfinite(values), values, -np.inf)
    order = known.max(1).argsort()[::-1][:MOST_HISTOGRAMS]
    steps = known.argmax(1)
    return [
        (seen.inputs[i], int(steps[i]), float(values[i, steps[i]]))
        for i in order
        if np.isfinite(known[i].max())
    ]


def _map(seen: SeenFile, values: np.ndarray, source: Source) -> Section:
    statistic = STATISTICS[STATISTIC]
    rows = labels(seen)
    blocks = [block_label(entry.block) for entry in seen.inputs]
    figure = heatmap.sites(values, rows, blocks, None, "log", statistic.title)
    return plot(
        f"Activations: {statistic.title.lower()} of every input at every step",
        figure,
        alt=f"{statistic.title} of {len(rows)} inputs over {seen.steps} steps, "
        f"{np.nanmin(values):.3g} to {np.nanmax(values):.3g}",
        height=heatmap.height(len(rows)),
        source=source,
        part=STATISTIC,
        lede=f"{statistic.unit}. {statistic.words} Conditional branch, full precision.",
    )


def _histogram(
    seen: SeenFile, entry: InputEntry, step: int, value: float, source: Source
) -> Section:
    stages = dict.fromkeys(
        (entry.stages[0], entry.stages[-1])
    )  # before and after, where they differ
    counted = [(stage, *seen.histogram(entry.name, step, 0, stage)) for stage in stages]
    edges = counted[0][2]
    figure = histogram.figure(
        [(stage, counts) for stage, counts, _ in counted],
        edges,
        levels=np.empty(0),
        zero=(0, 0),
        clip=(0, 0),
        clips=False,
        logarithmic=True,
    )
    return plot(
        f"{labels(seen)[seen.inputs.index(entry)]}, step {step}",
        figure,
        alt=f"Histogram of the values of {entry.name} at step {step}",
        height=300,
        source=source,
        part=f"histogram-{entry.name}-step-{step}",
        lede=f"{entry.name}: {STATISTICS[STATISTIC].title.lower()} {value:.3g}, among the highest of this capture.",
        raw=_raw(counted, edges),
    )


def _raw(counted: list[tuple[str, Any, Any]], edges: np.ndarray) -> list[dict[str, Any]]:
    """A row per bin that any stage fills."""
    filled = np.flatnonzero(np.sum([counts for _, counts, _ in counted], axis=0))
    return [
        {
            "from": float(edges[i]),
            "to": float(edges[i + 1]),
            **{f"count_{stage}": int(counts[i]) for stage, counts, _ in counted},
        }
        for i in filled
    ]
