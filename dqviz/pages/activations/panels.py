"""Everything about one input at one step: values and their grid, channels, tokens, rows, steps, stages, weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from quant.summaries import STATISTICS

from ...plots import heatmap, profile, ridge, surface
from ...plots.arrays import short
from ..view import Section, plot
from .cell import At, outliers, sizes
from .opened import LOGARITHMIC, Opened, stage_label
from .selection import BRANCHES, Selection, labels
from .transforms import before_and_after, weights
from .values import values


def panels(opened: Opened, chosen: Selection) -> list[Section]:
    """The panels in order; each has a `key` of its own, so that the page updates it in place."""
    entry = opened.seen.entry(chosen.site)
    stage = chosen.stage if chosen.stage in entry.stages else entry.stages[0]
    at = At(opened, chosen, entry, stage)
    found = [
        ("values", values(at)),
        ("channels", channels(at)),
        ("tokens", tokens(at)),
        ("ridge", all_steps(at)),
        ("line", over_steps(at)),
        ("rows", row_spread(at)),
        ("stages", before_and_after(at)),
        ("weights", weights(at)),
    ]
    return [{**section, "key": key} for key, section in found if section is not None]


def about(opened: Opened, chosen: Selection) -> dict[str, Any]:
    """The chosen input in words, for the bar that stays in view."""
    entry = opened.seen.entry(chosen.site)
    missing = chosen.stage not in entry.stages
    return {
        "label": labels(opened.seen)[opened.seen.inputs.index(entry)],
        "sites": list(entry.sites),
        "facts": f"{entry.channels} channels, {entry.tokens} rows per sample and branch",
        "note": f"This input has no stage '{chosen.stage}'; shown {stage_label(entry.stages[0])}." if missing else "",
    }  # fmt: skip


def channels(at: At) -> Section:
    """Smallest, largest, mean and spread of every channel."""
    found = outliers(at.channels)
    by_size = at.chosen.order == "size"
    return plot(
        "Channels",
        profile.figure(at.channels, found, by_size),
        alt=f"Range of every channel of {at.place}",
        height=300,
        source=at.source(),
        part=at.part("channels"),
        lede="From the smallest to the largest value of each channel, over all rows; line: mean, dotted: one standard deviation. Rings: more than 5 times the median channel.",
        badges=[at.evidence],
        words=_channel_words(at, found),
    )


def _channel_words(at: At, found: np.ndarray) -> list[str]:
    size = sizes(at.channels)
    middle, top = float(np.median(size)), int(size.argmax())
    if middle <= 0:
        return ["Most channels are zero at this step."]
    words = [f"Channel {top} reaches {short(float(size[top]) / middle)} times the median channel."]
    if len(found):
        others = ", ".join(str(int(c)) for c in found[:6]) + (" …" if len(found) > 6 else ".")
        verb = "stands" if len(found) == 1 else "stand"
        words.append(f"{len(found)} of {len(size)} channels {verb} above 5 times the median: {others}")  # fmt: skip
        words.append("A scale per channel, or a rotation, spreads what these few hold.")
    else:
        words.append(f"None of the {len(size)} channels stands above 5 times the median: there is little for channel scales to mend.")  # fmt: skip
    low, high = float(at.channels["minimum"][top]), float(at.channels["maximum"][top])
    if len(found) and (low >= 0 or high <= 0):
        words.append(f"All values of channel {top} have one sign.")
    return words


def tokens(at: At) -> Section:
    """|x| of the first sample: flat, or as a landscape."""
    found = at.seen.surface(at.entry.name, at.step, at.stage)
    flat = at.chosen.surface == "flat"
    draw = heatmap.tokens if flat else surface.figure
    kept = "" if found.step == at.step else f" Step {found.step} is the nearest one that was kept."
    other = " The conditional branch is the one that was kept." if at.branch == 1 else ""
    rows, columns = found.token_factor, found.channel_factor
    if not flat:
        _, more_rows, more_columns = surface.pooled(found.values)
        rows, columns = rows * more_rows, columns * more_columns
    pooling = f"One cell is the largest of {rows} × {columns} (tokens × channels)." if rows * columns > 1 else "One cell is one token in one channel."  # fmt: skip
    return plot(
        "Tokens × channels",
        draw(found.values, found.token_factor, found.channel_factor),
        alt=f"Magnitude per token and channel of {at.place}",
        height=340,
        source=at.source(),
        part=at.part("tokens"),
        lede=f"|x| of the first sample. {pooling}{kept}{other}",
        badges=[at.evidence],
        words=_token_words(found.values, found.channel_factor, found.token_factor),
        static=not flat,
    )


def _token_words(values: np.ndarray, channel_factor: int, token_factor: int) -> list[str]:
    """Whether what stands out belongs to channels or to tokens."""
    by_channel, by_token = np.median(values, axis=0), np.median(values, axis=1)
    c = float(by_channel.max() / max(float(np.median(by_channel)), 1e-12))
    t = float(by_token.max() / max(float(np.median(by_token)), 1e-12))
    column, line = int(by_channel.argmax()) * channel_factor, int(by_token.argmax()) * token_factor
    channel = f"channel {column}" if channel_factor == 1 else f"channels {column} to {column + channel_factor - 1}"  # fmt: skip
    token = f"token {line}" if token_factor == 1 else f"tokens {line} to {line + token_factor - 1}"
    if c > 1.5 * t and c > 2:
        return [f"Upright stripes: the same channels are large for every token ({channel}: {short(c)} times the median). Scales per row cannot help these."]  # fmt: skip
    if t > 1.5 * c and t > 2:
        return [f"Level stripes: some tokens are large in every channel ({token}: {short(t)} times the median). Scales per row help these."]  # fmt: skip
    return [f"No stripe dominates: the strongest channel is {short(c)} times, the strongest token {short(t)} times the median."]  # fmt: skip


def all_steps(at: At) -> Section:
    """One ridge per step."""
    counts, edges = at.all_histograms, at.histogram[1]
    shown = ridge.shown_steps(at.seen.steps, at.step)
    lede = "How the values are spread at each step, the noisiest on top. Click a ridge to go to its step."  # fmt: skip
    if len(shown) < at.seen.steps:
        lede += f" {len(shown)} of {at.seen.steps} steps are drawn."
    return plot(
        "All steps",
        ridge.figure(counts, edges, at.seen.timesteps, at.step),
        alt=f"Histogram of {at.label} at every step",
        height=340,
        source=at.source(),
        part=at.part("ridge"),
        lede=lede,
        badges=[at.evidence],
        words=_ridge_words(at),
        raw=[],
    )


def _ridge_words(at: At) -> list[str]:
    index = at.seen.inputs.index(at.entry)
    std = at.seen.summary("std", at.stage)[index, :, at.branch].astype(float)
    if not np.isfinite(std).all() or std.min() <= 0:
        return []
    widest, narrowest = int(std.argmax()), int(std.argmin())
    ratio = float(std[widest] / std[narrowest])
    if ratio < 1.1:
        return ["The spread is the same at all steps, within a tenth."]
    words = [f"Widest at step {widest} (standard deviation {short(float(std[widest]))}), narrowest at step {narrowest} ({short(float(std[narrowest]))}): {short(ratio)} times."]  # fmt: skip
    if ratio > 2:
        words.append("One scale for all steps wastes bits at the narrow ones; step windows would help.")  # fmt: skip
    return words


def over_steps(at: At) -> Section:
    """The map's statistic of this input, both branches."""
    statistic = STATISTICS[at.chosen.statistic]
    index = at.seen.inputs.index(at.entry)
    found = at.seen.summary(at.chosen.statistic, at.stage)[index]  # [steps, branches]
    colours = ("var(--run-1)", "var(--run-2)")
    series = [(BRANCHES[b], found[:, b], colours[b]) for b in range(at.seen.branches)]
    known = found[np.isfinite(found)]
    log = at.chosen.statistic in LOGARITHMIC and bool(known.size and known.min() > 0 and known.max() / known.min() > 8)  # fmt: skip
    return plot(
        f"{statistic.title} over the steps",
        ridge.lines(series, at.seen.timesteps, at.step, statistic.title, log),
        alt=f"{statistic.title} of {at.label} at every step",
        height=280,
        source=at.source(),
        part=at.part(f"{at.chosen.statistic}-steps"),
        lede=f"This row of the map. {statistic.words}",
        badges=[at.evidence],
        words=_line_words(found, statistic.title),
    )


def _line_words(found: np.ndarray, title: str) -> list[str]:
    line = found[:, 0].astype(float)
    known = np.flatnonzero(np.isfinite(line))
    if not known.size:
        return []
    top, least = int(known[line[known].argmax()]), int(known[line[known].argmin()])
    words = [f"{title} is highest at step {top} ({short(float(line[top]))}) and lowest at step {least} ({short(float(line[least]))})."]  # fmt: skip
    if found.shape[1] > 1:
        gap = np.abs(found[:, 0] - found[:, 1])
        size = np.nanmean(np.abs(found))
        if np.isfinite(gap).any() and size > 0:
            share = float(np.nanmax(gap) / size)
            where = int(np.nanargmax(gap))
            words.append("Both guidance branches agree within 5 %." if share < 0.05 else f"The guidance branches differ most at step {where}: {short(float(found[where, 0]))} conditional, {short(float(found[where, 1]))} unconditional.")  # fmt: skip
    return words


def row_spread(at: At) -> Section:
    """How the abs-max of rows spreads at every step."""
    rows = at.seen.row_absmax(at.entry.name, at.stage)[:, at.branch].astype(float)  # [steps, k]
    here = rows[at.step]
    middle = max(float(np.median(here)), 1e-12)
    inside = float(here.max()) / middle
    overall = float(rows.max()) / max(float(np.median(rows)), 1e-12)
    words = [f"At this step the largest row reaches {short(inside)} times the median row; over all steps {short(overall)} times."]  # fmt: skip
    words.append(
        "A scale per row follows this; one scale for everything cannot."
        if overall > 2
        else "Rows are alike: one scale serves nearly as well as one per row."
    )
    return plot(
        "Rows",
        ridge.spread(rows, at.seen.timesteps, at.step),
        alt=f"Spread of the largest magnitude per row of {at.label}",
        height=280,
        source=at.source(),
        part=at.part("rows"),
        lede="The largest |x| of single rows (tokens), at every step.",
        badges=[at.evidence],
        count=f"{rows.shape[1]} sampled rows a step",
        words=words,
    )
