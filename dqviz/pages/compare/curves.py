"""Figures of a comparison: error along the trajectory, the yardstick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...plots import ladder as ladder_plot
from ...plots import trajectory as trajectory_plot
from ...plots.theme import colour_number
from ..exports import Source
from ..view import Section, plot
from .names import Run, full_name, number


def trajectory(
    runs: Sequence[Run], drifts: Mapping[str, Mapping[str, Any]], source: Source
) -> Section:
    """Where along the sampling the error arises and how it gathers."""
    drawn = [
        (colour_number(i), full_name(r), drifts[str(r["name"])])
        for i, r in enumerate(runs)
        if str(r["name"]) in drifts
    ]
    times = max((d["timesteps"] for _, _, d in drawn), key=len)
    samples = runs[0].get("files") or ()
    return plot(
        "Error along the trajectory",
        trajectory_plot.figure(drawn),
        lede=(
            "Solid: distance of the whole trajectory so far (free-running). Dotted: what a single step adds "
            "when it starts from full precision's latents (teacher-forced). A solid line that rises faster "
            "than the dotted one means that early mistakes are amplified."
            + _traced(drawn, len(samples))
        ),
        alt=f"Relative error per denoising step for {', '.join(name for _, name, _ in drawn)}",
        height=300,
        source=source,
        part="trajectory",
        raw=_raw_trajectory(drawn),
        narrow={"margin": {"l": 48, "r": 8, "t": 8, "b": 44}},
        readout=_readout(drawn, times),
    )


def _traced(drawn: Sequence[tuple[int, str, Mapping[str, Any]]], samples: int) -> str:
    """How many samples were traced, where that is fewer than were drawn."""
    n = min(int(d.get("samples") or 0) for _, _, d in drawn)
    return f" Mean of the first {n} samples." if 0 < n < samples else ""


def _readout(
    drawn: Sequence[tuple[int, str, Mapping[str, Any]]], times: Sequence[float]
) -> Section:
    count = len(times)
    return {
        "label": "Step",
        "positions": [f"step {i}, timestep {t:g}" for i, t in enumerate(times)],
        "columns": [
            "Run",
            "one step",
            "conditional",
            "unconditional",
            "gathered before",
            "amplified",
            "guidance adds",
        ],
        "rows": [
            {"run": colour, "name": name, "values": [_at(d, i) for i in range(count)]}
            for colour, name, d in drawn
        ],
    }


def _at(drift: Mapping[str, Any], step: int) -> list[str]:
    """The six numbers of one run at one step, as text."""
    forced = drift["teacher_forced"]
    series = (forced["guided"], forced["cond"], forced.get("uncond"), drift["free_running"])
    errors = [_small(_item(s, step)) for s in series]
    ratios = (drift.get("amplification"), drift.get("guidance_added"))
    return errors + [number(_item(s, step), 2, "×") or "–" for s in ratios]


def _item(series: Sequence[float | None] | None, step: int) -> float | None:
    return series[step] if series is not None and step < len(series) else None


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _raw_trajectory(
    drawn: Sequence[tuple[int, str, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    rows = []
    for _, name, d in drawn:
        for step, timestep in enumerate(d["timesteps"]):
            forced = d["teacher_forced"]
            rows.append(
                {
                    "run": name,
                    "step": step,
                    "timestep": timestep,
                    **{
                        f"teacher_forced_{k}": _item(forced.get(k), step)
                        for k in ("cond", "uncond", "guided")
                    },
                    "free_running": _item(d["free_running"], step),
                    "amplification": _item(d.get("amplification"), step),
                    "guidance_added": _item(d.get("guidance_added"), step),
                }
            )
    return rows


def ladder(
    result: Mapping[str, Any], runs: Sequence[Run], source: Source, what: str = "picture"
) -> Section:
    """The runs among known disturbances of the same model; `what` is what they draw."""
    rows: list[tuple[int | None, str, Mapping[str, Any]]] = [
        (None, str(r["title"]), r["psnr_db"]) for r in result["ladder"] if _has_mean(r)
    ]
    rows += [
        (colour_number(i), full_name(r), r["psnr_db"])
        for i, r in enumerate(runs)
        if i and _has_mean(r)
    ]
    rows.sort(key=lambda row: -row[2]["mean"])
    identical = [
        str(r["title"]) for r in result["ladder"] if (r.get("psnr_db") or {}).get("identical")
    ]
    n = min((r.get("samples") or 0 for r in result["ladder"]), default=0)
    note = f" Identical to full precision here: {', '.join(identical)}." if identical else ""
    figure = ladder_plot.figure(rows)
    return plot(
        "Yardstick",
        figure,
        lede=(
            f"How far harmless changes of the same model move its {what}s. A run to the right of "
            "'one step more' changes less than one more sampling step does; within 'bf16' it is lossless here."
            + (f" Rungs use {n} of the samples." if n else "")
            + note
        ),
        alt="; ".join(f"{name} {p['mean']:.1f} dB" for _, name, p in rows),
        height=ladder_plot.height(len(rows)),
        source=source,
        part="yardstick",
        narrow=ladder_plot.narrow(figure),
        raw=_raw_ladder(rows),
    )


def _has_mean(entry: Mapping[str, Any]) -> bool:
    return (entry.get("psnr_db") or {}).get("mean") is not None


def _raw_ladder(
    rows: Sequence[tuple[int | None, str, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "kind": "yardstick" if index is None else "run",
            **{f"psnr_db_{k}": p.get(k) for k in ("mean", "lo", "hi")},
        }
        for index, name, p in rows
    ]
