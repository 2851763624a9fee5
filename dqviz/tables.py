"""Results as aligned plain text, for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quant.cards import methods

from .terminal import counted, duration


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns padded to their widest cell, two spaces apart."""
    lines = [tuple(columns), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def compared(result: Mapping[str, Any]) -> str:
    """Runs, differences and ladder of a comparison."""
    lossless = set(result.get("lossless", ()))
    runs = table(
        ("run", "PSNR dB", "latent error", "SSIM", "class", "s/sample", "size", "bits/w", "by"),
        (
            (
                run["name"] + (" (lossless here)" if run["name"] in lossless else ""),
                interval(run["psnr_db"], 1),
                interval(run["latent_rel_error"], 4),
                interval(run["ssim"], 3),
                percent(run["class_accuracy"]),
                seconds(run["seconds_per_sample"]),
                size(run),
                number(run["bits_per_weight"], 2),
                f"{run['backend']}, {run['evidence']}"
                + (", weights as stored" if run.get("residency") == "memory" else "")
                + (f", {run['attention']} attention" if run.get("attention") else ""),
            )
            for run in result["runs"]
        ),
    )
    parts = [runs]
    if any(run.get("clip") for run in result["runs"]):
        parts.append(_over_time(result["runs"][1:]))
    if result["pairs"]:
        parts.append(_pairs(result["pairs"]))
    if result["ladder"]:
        parts.append(_ladder(result["ladder"]))
    parts += [f"note: {warning}" for warning in result.get("warnings", ())]
    parts.append(f"study: {result['study']}    report: {result['study']}/report.html")
    return "\n\n".join(parts)


def _over_time(runs: Sequence[Mapping[str, Any]]) -> str:
    """What clips say frame by frame and from one frame to the next."""
    return table(
        ("clips", "PSNR of frames dB", "worst frame SSIM", "added flicker", "motion drift"),
        (
            (
                run["name"],
                interval(run.get("frame_psnr_db"), 1),
                interval(run.get("worst_frame_ssim"), 3),
                interval(run.get("flicker"), 4),
                interval(run.get("frame_drift"), 3),
            )
            for run in runs
        ),
    )


def captured(made: Mapping[str, Any]) -> str:
    """A capture in a few lines."""
    what = f"{made['inputs']} inputs of {made['sites']} sites, {made['steps']} steps, {made['samples']} samples"
    ratio = made["overhead_ratio"]
    lines = [
        f"{made['study']}: capture {made['capture']}"
        + (", which was there already" if made["reused"] else ""),
        f"{what}; stages: {', '.join(made['stages'])}",
        f"{made['bytes'] / 2**20:.1f} MiB in {made['file']}; {made['seconds']:.1f} s"
        + ("" if ratio is None else f", {ratio:.2f} x the time of plain drawing"),
    ]
    if taken := made.get("resumed_samples"):  # none in captures of earlier versions
        lines.append(f"{counted(taken, 'sample')} taken over from a stopped attempt")
    return "\n".join(lines)


def probed(made: Mapping[str, Any]) -> str:
    """Probes of a method, one line each."""
    rows = [
        (
            p["probe"],
            p["title"],
            p["evidence"],
            "was there already" if p["reused"] else f"{p['seconds']:.1f} s",
            p["file"],
        )
        for p in made["probes"]
    ]
    shown = f"{made['study']}\n\n" + table(("probe", "what", "evidence", "took", "file"), rows)
    return "\n".join([shown, *(f"not {key}: {why}" for key, why in made["skipped"].items())])


def swept(made: Mapping[str, Any]) -> str:
    """A sweep in a few lines, with its noise floor; a recorded one tells no time."""
    took = "" if made["seconds"] is None else f" in {duration(made['seconds'])}"
    lines = [
        f"{made['study']}: sensitivity {made['sensitivity']}"
        + (", which was there already" if made["reused"] else ""),
        f"{counted(made['cells'], 'cell')} of {counted(made['sites'], 'site')}, tier {made['tier']}, "
        f"{made['method']}; {made['evidence']}, {counted(made['samples'], 'sample')}",
        f"{counted(made['denoiser_calls'], 'evaluation')} instead of {made['naive_calls']}{took}; {made['file']}",
    ]
    cells, samples = (made.get(f"resumed_{what}", 0) for what in ("cells", "samples"))
    if cells or samples:  # neither is told by sweeps of earlier versions
        kept = f"{counted(cells, 'cell')} and {counted(samples, 'sample')}"
        lines.append(f"taken over from a stopped attempt: {kept}")
    floors = [
        (
            floor["metric"],
            floor["operand"],
            "all steps" if floor["whole"] else "windows",
            f"{floor['median']:.3g} [{floor['lo']:.3g}, {floor['hi']:.3g}]",
        )
        for floor in made["noise_floor"]
    ]
    head = ("noise floor of", "operand", "cells of", "at 8 bits")
    return "\n".join(lines) + (f"\n\n{table(head, floors)}" if floors else "")


def allocated(made: Mapping[str, Any]) -> str:
    """A plan under budgets in a few lines: predicted beside drawn."""
    latency, drawn = made["latency_ratio"], made["verified"]
    loss, found = made["predicted_loss"], made["calibration"]
    how = "sum of its cells, not calibrated"
    if found is not None:
        inside = percent(found["coverage"])
        how = f"calibrated on {found['plans']} drawn plans, {inside} of them inside their interval"
    rows = [
        ("bits of weights", f"{made['avg_bits']:.3f}, codes alone; scales are in the size"),
        ("bits of activations", f"{made['activation_bits']:.3f}"),
        ("size", _megabytes(made)),
        ("loss, predicted", f"{_loss(loss)}; {how}"),
    ]
    if latency is not None:
        rows.append(("latency, predicted", f"{latency:.3f} {made['latency_said']}"))
    if drawn is not None:
        mean = f"mean {_loss(drawn)}, {drawn['n']} samples"
        rows.append(("loss, drawn", f"{_loss(drawn['typical'])}; {mean}"))
    if made["groups"]:
        rows += _of_groups(made["groups"])
    if made["refined"]:
        rows.append(("refined", _refined(made["refined"])))
    gap = f"{100 * made['gap']:.2g} % above the least possible sum at most"
    rows.append(("solver", f"{gap}; {made['status']} in {made['seconds']:.2g} s"))
    rows.append(("what binds", ", ".join(made["binding"]) or "nothing"))
    budgets = ", ".join(f"{name}={bound:.10g}" for name, bound in made["budgets"].items())
    lines = [
        f"{made['study']}: plan {made['allocation']} from table {made['table']['sensitivity']}",
        table(("under", budgets), rows),
        *(f"note: {warning}" for warning in made["warnings"]),
    ]
    if made["out"] is not None:
        lines.append(f"plan: {made['out']}")
    return "\n\n".join(lines)


def _megabytes(made: Mapping[str, Any]) -> str:
    """As budgets count them: 10^6 bytes."""
    share = 100 * made["size_bytes"] / made["fp16_bytes"]
    return f"{made['size_bytes'] / 1e6:.2f} MB ({share:.0f} % of 16 bit)"


def _of_groups(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metric groups: what each is ranked by, and the split that was taken of how many."""
    rows = [("groups", ", ".join(f"{group} by {m}" for group, m in told["metrics"].items()))]
    for name in ("avg_bits", "activation_bits"):
        tried = told.get(name, ())
        for one in (candidate for candidate in tried if candidate["taken"]):
            bits = ", ".join(f"{group} {b:.3f}" for group, b in one["bits"].items())
            drawn = sum(candidate["drawn"] is not None for candidate in tried)
            of = f"k {one['k']:.2f}; {len(tried)} tried, {drawn} drawn"
            lost = "" if one["drawn"] is None else f", typical loss {one['drawn']:.3g}"
            rows.append((f"split of {name}", f"{bits}; {of}{lost}"))
    return rows


def _refined(told: Mapping[str, Any]) -> str:
    what = "taken" if told["taken"] else "not taken"
    return f"typical loss drawn {told['before']:.3g}, {told['after']:.3g} with costs taken anew: {what}"


def _loss(value: Mapping[str, Any]) -> str:
    if value["lo"] is None or value["hi"] is None:
        return f"{value['mean']:.3g}"
    return f"{value['mean']:.3g} [{value['lo']:.3g}, {value['hi']:.3g}]"


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("difference", "PSNR dB", "wins", "claim", "bytes"),
        (
            (
                f"{p['a']} - {p['b']}",
                interval(p["diff_db"], 2, signed=True),
                percent(p["win_rate"]),
                p.get("claim", ""),
                f"{100 * (p['size_ratio'] - 1):+.1f} %"
                + ("" if p["same_scope"] else ", other scope"),
            )
            for p in pairs
        ),
    )


def _ladder(rungs: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("yardstick", "PSNR dB", "latent error"),
        (
            (r["title"], interval(r["psnr_db"], 1), interval(r["latent_rel_error"], 4))
            for r in rungs
        ),
    )


def sized(report: Mapping[str, Any]) -> str:
    """Sizes of a transformer, where the bytes go, other ways to store it, and the work until then."""
    memory = report["memory"]
    rows = [
        ("total", f"{report['total_bytes'] / 2**20:.2f} MiB ({_share(report)})"),
        ("16 bit", f"{report['fp16_bytes'] / 2**20:.2f} MiB"),
        ("quantized sites", f"{report['blocks_mib']:.2f} MiB"),
        ("bits per weight", f"{report['bits_per_weight']:.3f}"),
        ("  codes alone", f"{report['code_bits']:.3f}"),
        ("  with what blocks keep", f"{report['block_bits']:.3f}"),
        *([("codebooks", str(report["codebooks"]))] if report["codebooks"] else []),
        *((f"  {kind}", f"{count / 2**20:.3f} MiB") for kind, count in report["parts"].items()),
        ("in memory, as stored", f"{memory['stored_bytes'] / 2**20:.2f} MiB"),
        ("  with what simulation expands", f"{memory['resident_bytes'] / 2**20:.2f} MiB"),
    ]
    parts = [table(("size", ""), rows)]
    if report["alternatives"]:
        parts.append(_alternatives(report["alternatives"]))
    return "\n\n".join([*parts, _work(report["work"])])


def _share(report: Mapping[str, Any]) -> str:
    share = report["total_bytes"] / report["fp16_bytes"]
    return f"{100 * share:.0f} % of 16 bit" + (", so nothing is saved" if share >= 1 else "")


def _alternatives(ways: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("stored with", "on disk", "in memory, as stored", "in memory, where simulated"),
        (
            (
                " ".join(f"{name}={value}" for name, value in way["options"].items()),
                size(way),
                f"{way['memory']['stored_bytes'] / 2**20:.2f} MiB",
                f"{way['memory']['resident_bytes'] / 2**20:.2f} MiB",
            )
            for way in ways
        ),
    )


def _work(work: Mapping[str, Any]) -> str:
    rows = []
    what = f"calibration: {work['samples']} samples, {work['steps']} steps"
    calibrated = any(methods()[key].needs for key in work["methods"])
    for name, part in (*([(what, work)] if calibrated else []), *work["methods"].items()):
        known = part["seconds"] is not None
        rows.append(
            (
                name,
                f"{part['macs']:.2g}" if known else "not known: no picture size",
                f"about {duration(part['seconds'])}" if known else "–",
                f"{part['memory_bytes'] / 2**20:.0f} MiB" if known else "–",
            )
        )
    return table(("until then, predicted", "multiply-adds", "time on this machine", "memory"), rows)


def checked(found: Sequence[Mapping[str, Any]]) -> str:
    """Findings of doctor."""
    rows = []
    for check in found:
        mark = "ok" if check["ok"] else ("FAULT" if check["required"] else "absent")
        detail = check["detail"] + (f"  -> {check['fix']}" if check["fix"] else "")
        rows.append((mark, check["name"], detail))
    return table(("", "what", "found"), rows)


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


def size(run: Mapping[str, Any]) -> str:
    """MiB on disk, and the share of 16 bit."""
    if run.get("size_bytes") is None:
        return "–"
    text = f"{run['size_bytes'] / 2**20:.2f} MiB"
    return text + f" ({100 * run['size_bytes'] / run['fp16_bytes']:.0f} % of 16 bit)"
