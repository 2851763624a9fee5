"""Compare: full precision next to every method, from the same seeds, and what was lost and saved.

`render` turns the result of a comparison (finished, running or cancelled) into a `View`. It reads
nothing: pictures and drifts are handed in, so a stored result gives the same page anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from quant import cards
from quant.errors import BadInput

from ..plots import ladder as ladder_plot
from ..plots import trajectory as trajectory_plot
from ..plots.theme import colour_number
from ..request import CompareRequest, as_command
from .view import Column, Section, View, badge, cell, table, to_csv

TITLE = "Compare"
PAGE = 8  # samples that are drawn at first, and with each "show more"
SMOKE, CLAIM = 16, 64  # samples for a smoke test and for a claim
MB = 1e6

METRIC_WORDS = {
    "distances.classifier_features": "Fréchet distance on classifier features",
    "distances.latents": "Fréchet distance on latents",
}
LOSSLESS = badge("lossless here", "measured", "no further from full precision than bf16 is")

Run = Mapping[str, Any]
Pictures = Mapping[str, Sequence[str]]  # run name -> data URLs, one per sample from the first


def empty() -> View:
    """The page before anything was compared."""
    return View(
        (
            {
                "kind": "empty",
                "title": "See what quantization changes",
                "text": (
                    "The same seeds are drawn twice: once in full precision, once with each method. "
                    "Press Run; the form is filled in already."
                ),
                "steps": [
                    {"title": "Draw", "text": "Pictures appear while they are denoised."},
                    {
                        "title": "Look",
                        "text": "Slide between two pictures, amplify their difference.",
                    },
                    {"title": "Judge", "text": "Intervals, a yardstick, megabytes saved."},
                ],
            },
        )
    )


def render(
    result: Mapping[str, Any],
    pictures: Pictures | None = None,
    drifts: Mapping[str, Mapping[str, Any]] | None = None,
    files: Mapping[str, str] | None = None,
    address: str | None = None,
) -> View:
    """The page of one comparison.

    Args:
        result: what `dqviz.compare` returns, or the part of it that exists so far.
        pictures: data URLs by run name.
        drifts: error along the trajectory by run name.
        files: files of the study that can be downloaded: label -> name.
        address: name of the study, for the page's address.
    """
    runs = list(result.get("runs") or ())
    sections = [headline(result, runs), picture_grid(result, runs, pictures or {}, address)]
    quantized = runs[1:]
    fingerprint = _file_stem(result)
    if drifts:
        sections.append(trajectory(runs, drifts, fingerprint))
    if quantized:
        sections.append(metrics(runs, fingerprint, result.get("lossless") or ()))
    if result.get("pairs"):
        sections.append(pairs(result, runs, fingerprint))
    if quantized and result.get("ladder"):
        sections.append(ladder(result, runs, fingerprint))
    if quantized:
        sections.append(scope(quantized, fingerprint))
    sections += _closing(result, files or {}, address)
    return View(tuple(sections), address)


def _closing(
    result: Mapping[str, Any], files: Mapping[str, str], address: str | None
) -> list[Section]:
    sections: list[Section] = []
    line = command(result.get("request"))
    if line:
        sections.append(
            {
                "kind": "command",
                "title": "The same on the command line",
                "lede": "Draws the same pictures and adds them to the same study.",
                "text": line,
            }
        )
    if files and address:
        sections.append(
            {
                "kind": "downloads",
                "title": "Take it with you",
                "study": address,
                "items": [{"label": label, "file": file} for label, file in files.items()],
            }
        )
    return sections


# -- names ---------------------------------------------------------------------------------------


def run_name(run: Run) -> str:
    """What a person calls a run: `ViDiT-Q`, `Full precision`, or a candidate's folder."""
    method = str(run.get("method") or "")
    if method == "full-precision":
        return "Full precision"
    card = cards.methods().get(method)
    is_ours = card is not None and not run.get("path")  # a candidate goes by its folder's name
    return card.title if card and is_ours else str(run.get("title") or run.get("name") or method)


def run_bits(run: Run) -> str:
    """`W4A8`, or `mixed` for a plan."""
    bits = run.get("bits")
    if run.get("method") == "full-precision":
        return str(run.get("dtype") or "")
    return str(bits).upper() if bits else "mixed plan"


def full_name(run: Run) -> str:
    """Name and bits; what tells two runs of a comparison apart."""
    return f"{run_name(run)} {run_bits(run)}".strip()


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """Label by run name; two runs with the same label get their own name added."""
    labels = {str(r["name"]): full_name(r) for r in runs}
    twice = {label for label, n in Counter(labels.values()).items() if n > 1}
    return {
        name: f"{label} ({name})" if label in twice else label for name, label in labels.items()
    }


def _file_stem(result: Mapping[str, Any]) -> str:
    """Beginning of every downloaded file's name: model and recipe fingerprint."""
    model = str((result.get("model") or {}).get("key") or "model")
    mark = str(result.get("fingerprint") or "")
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{model}-{mark}")
    return safe.strip("-") or "comparison"


# -- headline ------------------------------------------------------------------------------------


def headline(result: Mapping[str, Any], runs: Sequence[Run]) -> Section:
    """Model, sampling, evidence, and one sentence per pair."""
    model = result.get("model") or {}
    status = result.get("status", "done")
    badges = _status_badges(status) + _evidence_badges(runs[1:])
    notes = [{"tone": "warn", "text": str(w)} for w in result.get("warnings") or ()]
    return {
        "kind": "headline",
        "title": str(model.get("title") or model.get("key") or "Comparison"),
        "facts": _facts(result),
        "badges": badges,
        "claims": claims(result, runs),
        "notes": notes,
    }


def _facts(result: Mapping[str, Any]) -> list[str]:
    request = result.get("request") or {}
    sampler = result.get("sampler") or {}
    steps = sampler.get("steps") or request.get("steps")
    guidance = sampler.get("guidance", request.get("guidance"))
    n = len(samples_of(result))
    facts = [f"{n} sample{'' if n == 1 else 's'}"]
    if steps:
        facts.append(f"{steps} steps")
    if guidance is not None:
        facts.append(f"guidance {guidance:g}")
    facts += [str(sampler[k]) for k in ("scheduler",) if sampler.get(k)]
    if result.get("status") == "cancelled":
        kept = len(result.get("runs") or ())
        facts.append(f"{kept} finished run{'' if kept == 1 else 's'} kept")
    if result.get("created"):
        facts.append(str(result["created"]).replace("T", " ").replace("Z", " UTC"))
    return facts


def _status_badges(status: str) -> list[dict[str, str]]:
    known = {"cancelled": "cancelled", "running": "running", "failed": "failed"}
    return [badge(known[status], "warn")] if status in known else []


def _evidence_badges(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One badge per kind of evidence among the quantized runs."""
    return [_evidence_badge(r) for r in {r.get("evidence"): r for r in runs}.values()]


def _evidence_badge(run: Run) -> dict[str, str]:
    evidence = str(run.get("evidence") or "simulated")
    meaning = {
        "measured": "integer kernels ran; times are real",
        "simulated": "quantized numerics on ordinary matrix products: quality is real, no speed is claimed",
        "recorded": "came with the repository",
    }
    why = str(run.get("backend_why") or meaning.get(evidence, ""))
    tone = evidence if evidence in ("measured", "simulated") else "plain"
    return badge(evidence, tone, why)


def claims(result: Mapping[str, Any], runs: Sequence[Run]) -> list[dict[str, str]]:
    """One plain sentence per pair of quantized runs."""
    labels = _labels(runs)
    return [claim(pair, labels) for pair in result.get("pairs") or () if _diff(pair)]


def claim(pair: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    """What the paired difference lets one say, and how sure it is."""
    diff = _diff(pair)
    a, b = (labels.get(str(pair[k]), str(pair[k])) for k in ("a", "b"))
    n = int(pair.get("n") or diff.get("n") or 0)
    if diff["mean"] < 0:
        a, b, diff, flipped = b, a, _negated(diff), True
    else:
        flipped = False
    wins = pair.get("win_rate")
    sub = ""
    if wins is not None:
        share = 1 - wins if flipped else wins
        sub = f"{a} is closer to full precision on {share:.0%} of the {n} seeds."
    if pair.get("aligned") is False:
        sub += " They differ in stored bytes or scope, so this is not a ranking of methods."
    size, interval = f"{diff['mean']:.1f} dB", _interval(diff, 1)
    if n < SMOKE:
        text = (
            f"Too few samples for a claim: on these {n}, {a} is ahead of {b} by {size}{interval}."
        )
        sub = f"{sub} {SMOKE} seeds make a smoke test, {CLAIM} a claim."
        return {"tone": "few", "text": text, "sub": sub.strip()}
    if not _shows_difference(pair, diff, flipped):
        text = f"No difference shown between {a} and {b}: {size}{interval} on {n} seeds."
        return {"tone": "none", "text": text, "sub": sub}
    text = f"{a} is better than {b} by {size}{interval} on {n} seeds."
    if n < CLAIM:
        sub += f" A smoke test; {CLAIM} seeds make a claim."
    return {"tone": "better", "text": text, "sub": sub.strip()}


def _shows_difference(pair: Mapping[str, Any], diff: Mapping[str, Any], flipped: bool) -> bool:
    """The engine's own verdict where there is one; else that the interval excludes 0."""
    verdict = pair.get("claim")
    if verdict in ("a better", "b better"):
        return (verdict == "b better") == flipped
    if verdict is not None:
        return False
    return diff.get("lo") is not None and diff["lo"] > 0


def _diff(pair: Mapping[str, Any]) -> dict[str, Any]:
    found = pair.get("diff_db")
    return dict(found) if found and found.get("mean") is not None else {}


def _negated(diff: Mapping[str, Any]) -> dict[str, Any]:
    low, high = diff.get("lo"), diff.get("hi")
    return {
        **diff,
        "mean": -diff["mean"],
        "lo": None if high is None else -high,
        "hi": None if low is None else -low,
    }


def _interval(values: Mapping[str, Any], digits: int, space: str = " ") -> str:
    """` [4.8, 5.6]`, or nothing for a single sample."""
    if values.get("lo") is None or values.get("hi") is None:
        return ""
    return f"{space}[{values['lo']:.{digits}f}, {values['hi']:.{digits}f}]"


# -- pictures ------------------------------------------------------------------------------------


def samples_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seed and label of every sample, from the result or, before there is one, from its request."""
    classes = (result.get("model") or {}).get("classes") or {}
    listed = result.get("samples")
    if listed:
        return [{"seed": s["seed"], "label": _sample_label(s, classes)} for s in listed]
    request = result.get("request") or {}
    names = [classes.get(str(c), c) for c in request.get("classes") or ()]
    names += request.get("prompts") or ()
    names = names or [classes[key] for key in sorted(classes, key=int)]
    return [
        {"seed": seed, "label": str(names[i % len(names)]) if names else f"sample {i + 1}"}
        for i, seed in enumerate(request.get("seeds") or ())
    ]


def _sample_label(sample: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    if sample.get("prompt"):
        return str(sample["prompt"])
    if sample.get("class_name"):
        return str(sample["class_name"])
    return str(classes.get(str(sample.get("class_id")), f"class {sample.get('class_id')}"))


def picture_grid(
    result: Mapping[str, Any], runs: Sequence[Run], pictures: Pictures, address: str | None
) -> Section:
    """Rows are samples, columns are runs; under each picture its own PSNR."""
    columns = [*runs, *_planned(result, runs)]
    return {
        "kind": "pictures",
        "title": "Pictures",
        "lede": "Same class or prompt, seed, starting noise and sampler in each row. Under a picture: its PSNR to full precision.",
        "page": PAGE,
        "study": address,
        "comparison": result.get("comparison"),
        "samples": samples_of(result),
        "runs": [_column(r, i) for i, r in enumerate(columns)],
        "captions": [_captions(r) for r in columns],
        "images": [list(pictures.get(str(r["name"]), ())) for r in columns],
    }


def _planned(result: Mapping[str, Any], runs: Sequence[Run]) -> list[Run]:
    """Columns of runs that a running comparison has still to make."""
    have = {str(r["name"]) for r in runs}
    return [r for r in result.get("planned") or () if str(r["name"]) not in have]


def _column(run: Run, index: int) -> dict[str, Any]:
    psnr = run.get("psnr_db") or {}
    figure = "identical" if psnr.get("identical") else _number(psnr.get("mean"), 1, " dB")
    return {
        "name": run_name(run),
        "detail": run_bits(run),
        "colour": colour_number(index),
        "figure": figure if index else "",
    }


def _captions(run: Run) -> list[str]:
    psnr = run.get("psnr_db") or {}
    return [
        "identical" if value is None else f"{value:.1f} dB"
        for value in psnr.get("per_sample") or ()
    ]


# -- numbers -------------------------------------------------------------------------------------


def metrics(runs: Sequence[Run], stem: str, lossless: Sequence[str] = ()) -> Section:
    """Quality, size and time of every run."""
    columns = (
        Column("Run"),
        Column("PSNR", "dB", "mean of the samples with its 95 % interval; below: the worst sample"),
        Column("Latent error", "", "relative error of the final latents: the primary metric"),
        Column("SSIM", "", "structural similarity to full precision's picture"),
        Column("Right class", "", "share of pictures that the shipped classifier recognises"),
        Column("Size", "MB", "the transformer as stored; below: its share of fp16"),
        Column("Bits", "per weight", "with scales, zero points and transforms"),
        Column("Time", "s/picture", "only where real integer kernels ran; never for simulation"),
        Column("Evidence", "", "what kind of number this is"),
    )
    return table(
        "Quality, size, time",
        columns,
        [{"cells": _metric_cells(run, i, run["name"] in lossless)} for i, run in enumerate(runs)],
        lede="All against full precision on the same samples, with 95 % intervals over the samples.",
        note=_unavailable(runs),
        raw=[_raw_metrics(run) for run in runs],
        file=f"{stem}-metrics",
    )


def _metric_cells(run: Run, index: int, lossless: bool) -> list[dict[str, Any]]:
    psnr = run.get("psnr_db") or {}
    worst = psnr.get("min")
    seconds = run.get("seconds_per_sample")
    evidence = _evidence_badge(run) if index else badge("reference")
    return [
        cell(run_name(run), run_bits(run), run=colour_number(index)),
        _psnr_cell(psnr, worst, index) | ({"badge": LOSSLESS} if lossless else {}),
        _summary_cell(run.get("latent_rel_error"), 4, index),
        _summary_cell(run.get("ssim"), 4, index),
        _accuracy_cell(run),
        _size_cell(run),
        cell(_number(run.get("bits_per_weight"), 2) or "–"),
        cell(_number(seconds, 2) or "–"),
        cell(badge=evidence, sub=_backend(run)),
    ]


def _backend(run: Run) -> str:
    """The backend that ran; simulation is said by the badge already."""
    backend = str(run.get("backend") or "")
    return "" if backend == "simulate" else backend


def _psnr_cell(psnr: Mapping[str, Any], worst: float | None, index: int) -> dict[str, Any]:
    if index == 0:
        return cell("–", "reference")
    if psnr.get("identical"):
        return cell("identical", "every picture equals full precision's")
    if psnr.get("mean") is None:
        return cell("–", "not available")
    interval = _interval(psnr, 1, "")
    low = f"worst {worst:.1f}" if worst is not None else ""
    return cell(f"{psnr['mean']:.2f}", " · ".join(t for t in (interval, low) if t))


def _summary_cell(summary: Mapping[str, Any] | None, digits: int, index: int) -> dict[str, Any]:
    if not summary or summary.get("mean") is None:
        return cell("–", "" if index == 0 else "not available")
    return cell(f"{summary['mean']:.{digits}f}", _interval(summary, digits, ""))


def _accuracy_cell(run: Run) -> dict[str, Any]:
    accuracy = run.get("class_accuracy")
    if accuracy is None:
        return cell("–", "no classifier")
    interval = run.get("class_accuracy_interval") or {}
    sub = f"[{interval['lo']:.0%}, {interval['hi']:.0%}]" if interval.get("lo") is not None else ""
    return cell(f"{accuracy:.0%}", sub)


def _size_cell(run: Run) -> dict[str, Any]:
    size, half = run.get("size_bytes"), run.get("fp16_bytes")
    if size is None:
        return cell("–")
    ratio = f"{half / size:.2f}× smaller than fp16" if half and size < half else ""
    if half and size >= half:
        ratio = f"{size / half:.2f}× fp16"
    return cell(f"{size / MB:.2f}", ratio)


def _unavailable(runs: Sequence[Run]) -> str:
    """Reasons for the numbers that are missing, each once."""
    reasons: dict[str, list[str]] = {}
    for run in runs[1:]:
        for key, reason in (run.get("unavailable") or {}).items():
            if not str(reason).startswith("unavailable:"):
                words = METRIC_WORDS.get(key, str(key).replace("_", " "))
                reasons.setdefault(str(reason), []).append(words)
    listed = [f"{', '.join(dict.fromkeys(keys))}: {reason}" for reason, keys in reasons.items()]
    return "Not available: " + "; ".join(listed) + "." if listed else ""


def _raw_metrics(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {key: run.get(key) for key in ("name", "method", "bits")}
    for key in ("psnr_db", "latent_rel_error", "ssim"):
        summary = run.get(key) or {}
        row |= {f"{key}_{part}": summary.get(part) for part in ("mean", "lo", "hi", "worst")}
    keys = (
        "class_accuracy",
        "size_bytes",
        "fp16_bytes",
        "bits_per_weight",
        "seconds_per_sample",
        "backend",
        "evidence",
    )
    return row | {key: run.get(key) for key in keys}


def pairs(result: Mapping[str, Any], runs: Sequence[Run], stem: str) -> Section:
    """Every pair of runs: paired difference with its interval, win rate."""
    labels = _labels(runs)
    colours = {str(r["name"]): colour_number(i) for i, r in enumerate(runs)}
    rows = []
    for pair in result["pairs"]:
        diff = _diff(pair)
        a, b = str(pair["a"]), str(pair["b"])
        worst = pair.get("worst_decile")
        rows.append(
            {
                "cells": [
                    cell(labels.get(a, a), run=colours.get(a)),
                    cell(labels.get(b, b)),
                    cell(_signed(diff.get("mean")), _interval(diff, 2, "") if diff else ""),
                    cell(f"{pair['win_rate']:.0%}" if pair.get("win_rate") is not None else "–"),
                    cell(_signed(worst)),
                    cell(str(pair.get("n") or diff.get("n") or "–")),
                ]
            }
        )
    return table(
        "Pairs",
        (
            Column("Run"),
            Column("against"),
            Column("Difference", "dB", "mean of the per-sample differences in PSNR"),
            Column(
                "Wins", "", "share of samples on which the first run is closer to full precision"
            ),
            Column(
                "Worst tenth", "dB", "a tenth of the samples is at least this bad for the first run"
            ),
            Column("Samples"),
        ),
        rows,
        lede="Sample by sample, so that hard seeds count for both. An interval without 0 shows a difference.",
        raw=[_raw_pair(pair) for pair in result["pairs"]],
        file=f"{stem}-pairs",
    )


def _raw_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    diff = _diff(pair)
    return {
        "a": pair["a"],
        "b": pair["b"],
        **{f"diff_db_{k}": diff.get(k) for k in ("mean", "lo", "hi")},
        **{k: pair.get(k) for k in ("win_rate", "worst_decile", "n", "claim")},
    }


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


# -- trajectory, ladder, scope ---------------------------------------------------------------------


def trajectory(runs: Sequence[Run], drifts: Mapping[str, Mapping[str, Any]], stem: str) -> Section:
    """Where along the sampling the error arises and how it gathers."""
    drawn = [
        (colour_number(i), full_name(r), drifts[str(r["name"])])
        for i, r in enumerate(runs)
        if str(r["name"]) in drifts
    ]
    times = max((d["timesteps"] for _, _, d in drawn), key=len)
    samples = runs[0].get("files") or ()
    return {
        "kind": "plot",
        "title": "Error along the trajectory",
        "lede": (
            "Solid: distance of the whole trajectory so far (free-running). Dotted: what a single step adds "
            "when it starts from full precision's latents (teacher-forced). A solid line that rises faster "
            "than the dotted one means that early mistakes are amplified."
            + _traced(drawn, len(samples))
        ),
        "alt": f"Relative error per denoising step for {', '.join(name for _, name, _ in drawn)}",
        "figure": trajectory_plot.figure(drawn),
        "height": 300,
        "narrow": {"margin": {"l": 48, "r": 8, "t": 8, "b": 44}},
        "csv": _trajectory_csv(drawn),
        "file": f"{stem}-trajectory",
        "readout": _readout(drawn, times),
    }


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
    return errors + [_number(_item(s, step), 2, "×") or "–" for s in ratios]


def _item(series: Sequence[float | None] | None, step: int) -> float | None:
    return series[step] if series is not None and step < len(series) else None


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _trajectory_csv(drawn: Sequence[tuple[int, str, Mapping[str, Any]]]) -> str:
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
    return to_csv(rows)


def ladder(result: Mapping[str, Any], runs: Sequence[Run], stem: str) -> Section:
    """The runs among known disturbances of the same model."""
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
    return {
        "kind": "plot",
        "title": "Yardstick",
        "lede": (
            "How far harmless changes of the same model move its pictures. A run to the right of "
            "'one step more' changes less than one more sampling step does; within 'bf16' it is lossless here."
            + (f" Rungs use {n} of the samples." if n else "")
            + note
        ),
        "alt": "; ".join(f"{name} {p['mean']:.1f} dB" for _, name, p in rows),
        "figure": ladder_plot.figure(rows),
        "height": ladder_plot.height(len(rows)),
        "csv": _ladder_csv(rows),
        "file": f"{stem}-yardstick",
    }


def _has_mean(entry: Mapping[str, Any]) -> bool:
    return (entry.get("psnr_db") or {}).get("mean") is not None


def _ladder_csv(rows: Sequence[tuple[int | None, str, Mapping[str, Any]]]) -> str:
    return to_csv(
        [
            {
                "name": name,
                "kind": "yardstick" if index is None else "run",
                **{f"psnr_db_{k}": p.get(k) for k in ("mean", "lo", "hi")},
            }
            for index, name, p in rows
        ]
    )


def scope(runs: Sequence[Run], stem: str) -> Section:
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
        file=f"{stem}-scope",
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
    """A site with the runs that kept it."""
    without = [full_name(r) for r, quantized in zip(runs, inside) if name not in quantized]
    if not without:
        return name
    return f"{name}  (kept{'' if len(without) == len(runs) else ' by ' + ', '.join(without)})"


def _raw_scope(runs: Sequence[Run]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        rows += [
            {"run": run["name"], "site": s, "quantized": 1, "why": ""} for s in _quantized(run)
        ]
        rows += [
            {"run": run["name"], "site": s, "quantized": 0, "why": w} for s, w in _kept(run).items()
        ]
    return rows


def _quantized(run: Run) -> list[str]:
    return [str(s) for s in (run.get("scope") or {}).get("quantized") or ()]


def _kept(run: Run) -> dict[str, str]:
    kept = (run.get("scope") or {}).get("kept") or {}
    return {str(k): str(v) for k, v in kept.items()}


# -- command ---------------------------------------------------------------------------------------


def command(request: Mapping[str, Any] | None) -> str:
    """The command line of a request; empty when it cannot be told."""
    if not request:
        return ""
    try:
        parsed = CompareRequest.parse(dict(request))
    except BadInput:
        return ""
    return as_command(parsed)
