"""The report of a comparison: one HTML file that opens anywhere, without a request to any host.

Pictures are embedded, the strip of errors is inline SVG, light and dark follow the reader's system.
Names and labels are text: everything that comes from a file or a person is escaped. Every number
says whether it was measured, simulated, or recorded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .study import REPORT, Study, write_text

MAX_SAMPLES = 16  # pictures per run in the grid; the folder holds all
EVIDENCE = {
    "measured": "real arithmetic ran on this device",
    "simulated": "quantized numerics on ordinary matmuls: its speed would mean nothing",
    "predicted": "a model or solver said so",
    "recorded": "came with the repository",
}

Run = Mapping[str, Any]


def write_report(study: Study, comparison: int | None = None) -> Path:
    """Write `report.html` for one comparison (the latest by default) and return its path."""
    file = study.folder / REPORT
    write_text(file, report_html(study, comparison))
    return file


def report_html(study: Study, comparison: int | None = None) -> str:
    """The whole page as text."""
    result = study.result(comparison)
    runs = result["runs"]
    title = (
        f"{result['model'].get('title') or result['model']['key']}: full precision and quantized"
    )
    sections = (
        ("Pictures", _pictures(study, result)),
        ("Numbers", _numbers(result)),
        ("Differences between runs", _pairs(result["pairs"])),
        ("Yardstick ladder", _ladder(result["ladder"])),
        ("Error along the sampling", _strips(study, runs)),
        ("Scope", _scope(runs)),
        ("Make it again", _recipe(study, result)),
    )
    body = "".join(
        f"<section><h2>{escape(name)}</h2>{html}</section>" for name, html in sections if html
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{_lead(result)}{body}</main></body></html>\n"
    )


def _lead(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    parts = [
        f"{len(result['runs'][0]['files'])} samples",
        f"{result['created']}",
        str(result["runs"][0].get("device", "")),
        versions,
    ]
    if result["status"] != "done":
        parts.insert(0, f"this comparison was {result['status']}; finished runs are shown")
    warnings = "".join(f'<p class="warn">{escape(w)}</p>' for w in result.get("warnings", []))
    return f'<p class="lead">{escape(" · ".join(p for p in parts if p))}</p>{warnings}'


def _pictures(study: Study, result: Mapping[str, Any]) -> str:
    """A row per run, a column per sample."""
    recipe = study.recipe(result["runs"][0]["name"])
    classes = result["model"].get("classes", {})
    samples = recipe["samples"][:MAX_SAMPLES]
    head = "".join(
        f'<th scope="col">{escape(_sample_label(sample, classes))}</th>' for sample in samples
    )
    rows = []
    for run in result["runs"]:
        pictures = study.images(run["name"])[: len(samples)]
        scores = (run.get("psnr_db") or {}).get("per_sample") or [None] * len(samples)
        cells = "".join(
            f"<td>{_picture(file, run, sample)}<small>{_decibels(score, run)}</small></td>"
            for file, sample, score in zip(pictures, samples, scores)
        )
        rows.append(
            f'<tr><th scope="row">{escape(run["title"])}<br><small>{escape(run["name"])}</small>'
            f"</th>{cells}</tr>"
        )
    more = len(recipe["samples"]) - len(samples)
    note = f"<p>{more} more samples of every run lie in images/.</p>" if more > 0 else ""
    return (
        f'<div class="wide"><table class="grid"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _sample_label(sample: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    what = sample.get("prompt") or classes.get(str(sample.get("class_id")))
    what = what if what is not None else f"class {sample.get('class_id')}"
    return f"{what} · seed {sample['seed']}"


def _picture(file: Path, run: Run, sample: Mapping[str, Any]) -> str:
    try:
        data = base64.b64encode(file.read_bytes()).decode()
    except OSError:
        return "picture missing"
    alt = escape(f"{run['name']}, seed {sample['seed']}", quote=True)
    return f'<img src="data:image/png;base64,{data}" alt="{alt}">'


def _decibels(score: float | None, run: Run) -> str:
    if run.get("psnr_db") is None:
        return ""
    return "identical" if score is None else f"{score:.1f} dB"


def _numbers(result: Mapping[str, Any]) -> str:
    columns = (
        "run",
        "arithmetic",
        "PSNR, dB",
        "latent error",
        "SSIM",
        "class accuracy",
        "time per sample",
        "size",
        "bits per weight",
        "backend",
    )
    lossless = set(result.get("lossless", []))
    rows = [
        (
            run["title"] + (" · lossless here" if run["name"] in lossless else ""),
            run["evidence"],
            interval(run.get("psnr_db"), 1),
            interval(run.get("latent_rel_error"), 4),
            interval(run.get("ssim"), 3),
            percent(run.get("class_accuracy")),
            seconds(run.get("seconds_per_sample")),
            size(run),
            number(run.get("bits_per_weight"), 2),
            run["backend"],
        )
        for run in result["runs"]
    ]
    used = sorted({run["evidence"] for run in result["runs"]})
    legend = "; ".join(f"{kind}: {EVIDENCE.get(kind, kind)}" for kind in used)
    return (
        _table(columns, rows)
        + "<p>Means with 95 % bootstrap intervals over the samples, each paired with full precision. "
        + f"{escape(legend)}. Quality was computed on these pictures in every case.</p>"
    )


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    if not pairs:
        return ""
    rows = [
        (
            f"{pair['a']} − {pair['b']}",
            interval(pair.get("diff_db"), 2, signed=True),
            percent(pair.get("win_rate")),
            number(pair.get("worst_decile"), 2, signed=True),
            str(pair.get("n", "")),
            str(pair.get("claim", "")),
            f"{100 * (pair['size_ratio'] - 1):+.1f} %",
            "yes" if pair["same_scope"] else "no",
        )
        for pair in pairs
    ]
    columns = (
        "pair",
        "PSNR difference, dB",
        "wins",
        "worst decile",
        "samples",
        "claim",
        "bytes",
        "same scope",
    )
    return _table(columns, rows)


def _ladder(rungs: Sequence[Mapping[str, Any]]) -> str:
    if not rungs:
        return ""
    rows = [
        (
            rung["title"],
            interval(rung.get("psnr_db"), 1),
            interval(rung.get("latent_rel_error"), 4),
            interval(rung.get("ssim"), 3),
            str(rung["samples"]),
        )
        for rung in rungs
    ]
    return (
        "<p>What harmless changes do to the same full-precision model on the same samples: "
        "a run that changes less than these changed little.</p>"
        + _table(("change", "PSNR, dB", "latent error", "SSIM", "samples"), rows)
    )


def _strips(study: Study, runs: Sequence[Run]) -> str:
    traced = [(run, drift) for run in runs if (drift := study.drift(run["name"])) is not None]
    if not traced:
        return ""
    top = max(
        (
            value
            for _, drift in traced
            for series in (drift["teacher_forced"]["guided"], drift["free_running"])
            for value in series
            if value is not None
        ),
        default=1.0,
    )
    strips = "".join(f"<figure>{_strip(run, drift, top or 1.0)}</figure>" for run, drift in traced)
    seeds = ", ".join(str(seed) for seed in traced[0][1].get("seeds", []))
    return (
        f"<p>Relative error per step, mean over seeds {escape(seeds)}, from the noisiest step to the "
        "last; all strips share one scale. <b class=a>Bars</b>: what the step itself does wrong "
        "(quantized network on full precision's input). <b class=b>Line</b>: what has gathered in "
        f"the free-running latents.</p>{strips}"
    )


def _strip(run: Run, drift: Mapping[str, Any], top: float) -> str:
    width, height = 640.0, 72.0
    forced, free = drift["teacher_forced"]["guided"], drift["free_running"]
    step = width / len(forced)
    bars = "".join(
        f'<rect x="{i * step + 1:.1f}" y="{height - height * v / top:.1f}" '
        f'width="{max(step - 2, 1):.1f}" height="{height * v / top:.1f}">'
        f"<title>step {i + 1}, t = {drift['timesteps'][i]:.0f}: {v:.4f}</title></rect>"
        for i, v in enumerate(forced)
        if v is not None
    )
    points = " ".join(
        f"{i * step:.1f},{height - height * v / top:.1f}"
        for i, v in enumerate(free)
        if v is not None
    )
    label = escape(f"Error of {run['name']} over {len(forced)} steps", quote=True)
    last = next((v for v in reversed(free) if v is not None), None)
    return (
        f"<figcaption>{escape(run['title'])}, final latent error {number(last, 4)}</figcaption>"
        f'<svg viewBox="0 -4 {width:.0f} {height + 8:.0f}" role="img" aria-label="{label}" '
        f'preserveAspectRatio="none">{bars}<polyline points="{points}"/></svg>'
    )


def _scope(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs[1:]:
        reasons: dict[str, list[str]] = {}
        for name, reason in run["scope"]["kept"].items():
            reasons.setdefault(reason, []).append(name)
        kept = "".join(
            f"<li>{len(names)} kept: {escape(reason)}<br><small>{escape(_some(names))}</small></li>"
            for reason, names in reasons.items()
        )
        quantized = run["scope"]["quantized"]
        parts.append(
            f"<details><summary>{escape(run['title'])}: {len(quantized)} sites quantized, "
            f"{len(run['scope']['kept'])} kept</summary><ul><li>{len(quantized)} quantized"
            f"<br><small>{escape(_some(quantized))}</small></li>{kept}</ul></details>"
        )
    return "".join(parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")


def _recipe(study: Study, result: Mapping[str, Any]) -> str:
    from .request import CompareRequest, as_command

    command = as_command(CompareRequest.parse(result["request"]))
    recipes = [
        {**study.recipe(run["name"]), "fingerprint": run.get("recipe")} for run in result["runs"]
    ]
    text = json.dumps(recipes, indent=1, ensure_ascii=False)
    return (
        f"<p>As command:</p><pre>{escape(command)}</pre>"
        f"<details><summary>Recipes as JSON</summary><pre>{escape(text)}</pre></details>"
    )


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """A number, or a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def interval(value: Mapping[str, Any] | None, digits: int, signed: bool = False) -> str:
    """`24.1 [22.0, 26.3]`; `identical` where every sample is, a dash where nothing was measured."""
    if value is None:
        return "–"
    if value.get("identical"):
        return "identical"
    mean = number(value.get("mean"), digits, signed)
    if value.get("lo") is None or value.get("hi") is None:
        return mean
    return f"{mean} [{value['lo']:.{digits}f}, {value['hi']:.{digits}f}]"


def percent(share: float | None) -> str:
    """A share in 0..1 as per cent."""
    return "–" if share is None else f"{100 * share:.0f} %"


def seconds(value: float | None) -> str:
    """Measured seconds, or a dash: a simulation has none."""
    return "–" if value is None else f"{value:.3g} s"


def size(run: Run) -> str:
    """MiB on disk, and the share of 16 bit."""
    if run.get("size_bytes") is None:
        return "–"
    text = f"{run['size_bytes'] / 2**20:.2f} MiB"
    return text + f" ({100 * run['size_bytes'] / run['fp16_bytes']:.0f} % of 16 bit)"


_STYLE = """
:root{--fg:#1a1d23;--bg:#fff;--dim:#5c6470;--line:#d9dde3;--a:#c2570c;--b:#1f5fbf;--soft:#f4f6f8}
@media(prefers-color-scheme:dark){:root{--fg:#e7eaee;--bg:#14171c;--dim:#9aa3af;--line:#333a44;
--a:#f59e5b;--b:#7fb2ff;--soft:#1c2129}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:75rem;margin:0 auto;padding:1.5rem}h1{font-size:1.5rem;margin:0 0 .25rem}
h2{font-size:1.1rem;margin:2rem 0 .5rem}.lead,small,figcaption{color:var(--dim)}
.warn{border-left:3px solid var(--a);padding-left:.75rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top;
white-space:nowrap}thead th{color:var(--dim);font-weight:600}tbody th{font-weight:600}
.grid th,.grid td{border:0;padding:.25rem;font-size:.8rem}.grid thead th{max-width:9rem;
overflow:hidden;text-overflow:ellipsis}.grid img{display:block;width:112px;image-rendering:auto;
border-radius:4px}pre{background:var(--soft);padding:.75rem;overflow:auto;border-radius:4px}
figure{margin:.75rem 0}svg{width:100%;height:80px;background:var(--soft);border-radius:4px}
rect{fill:var(--a);fill-opacity:.45}polyline{fill:none;stroke:var(--b);stroke-width:2;
vector-effect:non-scaling-stroke}b.a{color:var(--a)}b.b{color:var(--b)}summary{cursor:pointer}
"""
