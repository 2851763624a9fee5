"""transforms.md from transforms.json: nothing on it is written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from quant.intervals import PairedDifference, paired_difference

from . import cells

BASELINE = "rtn"
EQUAL_BYTES = 0.03  # stored bytes this close count as equal
OUTLIERS = ("static", "drifting", "token")
BEST_OF = ("rtn, group 128", "gptq, scale and rotation, group 128", "viditq, group 128")
PEER = "torchao, group 128"


@dataclass(frozen=True)
class Order:
    """What the papers lead one to expect: `better` above `worse` at these bits, and why it may not be so."""

    better: str
    worse: str
    bits: str
    kinds: tuple[str, ...]
    because: str
    otherwise: str


ORDERS = (
    Order("rtn", "static-step", "w8a8", ("plain", *OUTLIERS), "a scale per row follows tokens and branches, a static one cannot", "one range per step is nearly as good where rows of a step are alike, which ViDiT-Q's later critics report too"),
    Order("viditq", "rtn", "w4a8", ("plain", *OUTLIERS), "scale and rotation lower the incoherence of inputs and weights", "without outliers the inputs of this small model are near the floor already: there is little to lower, and a few fragile samples decide the mean"),
    Order("viditq", "smoothquant", "w4a8", ("plain", *OUTLIERS), "rotation spreads what a static scale leaves", "where a scale alone undoes the outliers, rotation has nothing left to do"),
    Order("viditq", "quarot", "w4a8", ("plain", *OUTLIERS), "the scale re-weights the weight's error", "rotation alone reaches the floor of incoherence; a scale on top only moves error between weight and input"),
    Order("quarot", "smoothquant", "w4a8", ("drifting", "token"), "no single scale fits every step or token", "the largest channels matter at few steps, and dynamic rows take part of the loss"),
    Order("gptq", "rtn", "w4a8", ("plain", *OUTLIERS), "rounding that knows the inputs' second moments", "with outliers the activations' error dominates, which weight rounding does not touch"),
    Order("gptq, scale and rotation", "viditq", "w4a8", ("plain", *OUTLIERS), "the same change of basis, better rounding", "ViDiT-Q chooses the transform of every input by its error, this row has one for all"),
    Order("svdquant", "smoothquant", "w4a4", ("plain", *OUTLIERS), "the low-rank branch takes what the scale put into the weight", "the weights of this model have no dominant directions"),
    Order("trdq", "trdq, one window", "w4a8", ("drifting",), "a basis for every window follows what drifts", "rotation spreads whichever channels are large, so that one basis serves all windows"),
    Order("trdq", "viditq", "w4a8", ("plain", *OUTLIERS), "the paper's claim", "block rotations mix fewer channels than a Hadamard matrix of full order, and every window is calibrated on a quarter of the rows"),
)  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The whole page."""
    sampler, n = found["sampler"], len(found["seeds"])
    lines = [
        "# Methods against outliers",
        "",
        "Written by `make transforms` from `docs/results/transforms.json`; do not edit.",
        "",
        f"Model `{found['model']}` as it was trained (plain), and with synthetic outliers x{found['factor']:g} of each kind "
        "(`docs/outliers.md`): the same function, harder to round. "
        f"{n} seeds ({found['seeds'][0]} to {found['seeds'][-1]}) over every trained class; calibration on seeds "
        f"{found['calibration_seeds'][0]} to {found['calibration_seeds'][-1]}, which no reported sample has. {sampler['scheduler']}, "
        f"{sampler['steps']} steps, guidance {sampler['guidance']:g}. {found['device']}; "
        f"{', '.join(f'{k} {v}' for k, v in found['versions'].items())}; engine source {', '.join(found['sources'])}; {found['date']}.",
        "",
        "PSNR, latent error and SSIM are against full precision of the same model with the same seed, class, noise and sampler:",
        "mean with its 95 % bootstrap interval. A difference is per sample, and is shown when its interval excludes 0. Static",
        "outliers are undone by any channel scale: a method that wins there alone has shown no more than that. Decibels of this",
        "small model say nothing about other models, and outliers that were put in say nothing about those that grew.",
        "",
        *_targets(found),
        *_only_static(found),
        *_orders(found),
        *_trdq(found),
    ]
    for kind in found["kinds"]:
        lines += _kind(kind)
    return "\n".join(lines).rstrip() + "\n"


# -- one kind of outliers


def _kind(kind: dict[str, Any]) -> list[str]:
    full = kind["class_accuracy"]
    lines = [
        f"## {_title(kind['kind'])}",
        "",
        f"Full precision: class accuracy {cells.share(full)}.",
        "",
        "| bits | method | PSNR dB | of mean MSE | min dB | latent error | SSIM | class accuracy | bits / weight | file MB | evidence |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in kind["rows"]:
        psnr = row["psnr_db"]
        lines.append(
            f"| {row['bits']} | {row['way']} | {cells.mean(psnr)} | {psnr['of_mean_mse']:.2f} | {psnr['min']:.2f} "
            f"| {cells.mean(row['latent_rel_error'], 4)} | {row['ssim']['mean']:.4f} | {cells.share(row['class_accuracy'])} "
            f"| {row['bits_per_weight']:.2f} | {cells.megabytes(row['size_bytes'])} | {row['evidence']} |"
        )
    lines += [
        "",
        f"Against `{BASELINE}` of the same bits, sample by sample:",
        "",
        "| bits | method | PSNR, dB | better on | worst decile, dB | latent error | shown | bytes |",
        "|---|---|---:|---:|---:|---:|---|---:|",
    ]
    for row, pair, latent, ratio in _against_baseline(kind):
        lines.append(
            f"| {row['bits']} | {row['way']} | {cells.diff(pair)} | {pair.win_rate:.0%} | {cells.signed(pair.worst_decile)} "
            f"| {cells.diff(latent, 4)} | {cells.shown(pair, row['way'], BASELINE)} | x{ratio:.3f} |"
        )
    lines += [
        "",
        "Along the trajectory: relative error of one evaluation on full precision's input (first step, mean, last step), what has",
        "gathered half way and at the end, and the mean amplification from step to step.",
        "",
        "| bits | method | first | mean | last | gathered, half | gathered, end | amplification |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in kind["rows"]:
        forced, free = row["teacher_forced"], row["free_running"]
        amplified = np.mean([v for v in row["amplification"] if v is not None])
        lines.append(
            f"| {row['bits']} | {row['way']} | {forced[0]:.4f} | {np.mean(forced):.4f} | {forced[-1]:.4f} "
            f"| {free[len(free) // 2]:.4f} | {free[-1]:.4f} | {amplified:.2f} |"
        )
    lines += ["", "Yardstick: the same model, changed a little.", ""]
    lines += ["| rung | PSNR dB | latent error |", "|---|---:|---:|"]
    lines += [
        f"| {r['title']} | {cells.mean(r['psnr_db'])} | {cells.mean(r['latent_rel_error'], 4)} |"
        for r in kind["ladder"]
    ]
    return [*lines, ""]


def _against_baseline(
    kind: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], PairedDifference, PairedDifference, float]]:
    """Every other row, its difference from the baseline in both metrics, and the ratio of site bytes."""
    for row in kind["rows"]:
        base = row_of(kind, BASELINE, row["bits"])
        if base is None or row is base:
            continue
        latent = paired_difference(
            row["latent_rel_error"]["per_sample"],
            base["latent_rel_error"]["per_sample"],
            better="lower",
        )
        yield row, cells.difference(row, base), latent, row["site_bytes"] / base["site_bytes"]


# -- what the page is asked to show


def _targets(found: dict[str, Any]) -> list[str]:
    """The three bounds that were set before anything was measured."""
    plain, static = kind_of(found, "plain"), kind_of(found, "static")
    lines = ["## Targets on static outliers", "", "| target | measured | met |", "|---|---|---|"]
    if plain is None or static is None:
        return []
    told = []
    here, there = row_of(static, "viditq", "w8a8"), row_of(plain, "viditq", "w8a8")
    if here and there:
        gap = here["psnr_db"]["mean"] - there["psnr_db"]["mean"]
        told.append(("`viditq` W8A8 within 1 dB of its plain figure", f"{gap:+.2f} dB", gap >= -1))
    viditq, rtn = row_of(static, "viditq", "w4a8"), row_of(static, "rtn", "w4a8")
    if viditq and rtn:
        pair = cells.difference(viditq, rtn)
        assert pair.diff is not None
        told.append(
            (
                "`viditq` W4A8 beats `rtn` by at least 4 dB",
                f"{cells.diff(pair)} dB",
                pair.diff.mean >= 4,
            )
        )
    peer = row_of(static, PEER, "w4a8")
    ours = [row for name in BEST_OF if (row := row_of(static, name, "w4a8")) is not None]
    if peer and ours:
        best = max(ours, key=lambda row: row["psnr_db"]["mean"])
        pair = cells.difference(best, peer)
        assert pair.diff is not None
        ratio = best["site_bytes"] / peer["site_bytes"]
        told.append(
            (
                "the best W4A8 with 128 inputs a scale is not behind torchao's int8 dynamic + int4 group 128",
                f"`{best['way']}` {cells.mean(best['psnr_db'])} dB, torchao {cells.mean(peer['psnr_db'])} dB: "
                f"{cells.diff(pair)} dB at {ratio:.3f} x its bytes",
                (pair.diff.hi or 0) >= 0 and abs(ratio - 1) <= EQUAL_BYTES,
            )
        )
    return [*lines, *(f"| {a} | {b} | {'yes' if met else '**no**'} |" for a, b, met in told), ""]


def _only_static(found: dict[str, Any]) -> list[str]:
    """Which methods beat plain rounding where, and which of them on static outliers alone."""
    kinds = {kind["kind"]: kind for kind in found["kinds"]}
    if set(kinds) != {"plain", *OUTLIERS}:
        return []
    ways = dict.fromkeys((r["way"], r["bits"]) for r in kinds["plain"]["rows"])
    lines = [
        "## Who beats plain rounding where",
        "",
        f"`{BASELINE}` of the same bits; dB, per sample. **Bold**: shown. A row marked so wins on static outliers alone,",
        "which any scale undoes.",
        "",
        "| bits | method | plain | static | drifting | token | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for way, bits in ways:
        if way == BASELINE:
            continue
        listed, wins = [], []
        for name in ("plain", *OUTLIERS):
            row, base = row_of(kinds[name], way, bits), row_of(kinds[name], BASELINE, bits)
            if row is None or base is None:
                listed.append("-")
                continue
            pair = cells.difference(row, base)
            mean = "identical" if pair.diff is None else f"{pair.diff.mean:+.2f}"
            shown = pair.claim in ("a better", "b better")
            listed.append(f"**{mean}**" if shown else mean)
            wins += [name] if pair.claim == "a better" else []
        mark = "on static outliers alone" if wins == ["static"] else ""
        lines.append(f"| {bits} | {way} | {' | '.join(listed)} | {mark} |")
    return [*lines, ""]


def _orders(found: dict[str, Any]) -> list[str]:
    """Each expected order, and what became of it."""
    lines = []
    for order in ORDERS:
        for name in order.kinds:
            kind = kind_of(found, name)
            a = kind and row_of(kind, order.better, order.bits)
            b = kind and row_of(kind, order.worse, order.bits)
            if not a or not b:
                continue
            pair = cells.difference(a, b)
            became, why = "holds", order.because
            if pair.claim != "a better":
                became = "**reversed**" if pair.claim == "b better" else "no difference shown"
                why = order.otherwise
            lines.append(
                f"| {order.better} above {order.worse} | {order.bits} | {name} | {cells.diff(pair)} | {became} | {why} |"
            )
    if not lines:
        return []
    return [
        "## Expected orders",
        "",
        "What the papers lead one to expect. The last column says what was expected to cause it where it holds, and the",
        "likely cause where it does not (an interpretation, not measured by itself).",
        "",
        "| expected | bits | outliers | dB | | because |",
        "|---|---|---|---:|---|---|",
        *lines,
        "",
    ]


def _trdq(found: dict[str, Any]) -> list[str]:
    """TR-DQ with four windows and with one against ViDiT-Q, at what bytes."""
    lines = []
    for kind in found["kinds"]:
        for name in ("trdq", "trdq, one window"):
            for bits in dict.fromkeys(r["bits"] for r in kind["rows"]):
                a, b = row_of(kind, name, bits), row_of(kind, "viditq", bits)
                if a is None or b is None:
                    continue
                pair, ratio = cells.difference(a, b), a["site_bytes"] / b["site_bytes"]
                lines.append(
                    f"| {kind['kind']} | {bits} | {name} | {cells.diff(pair)} | {pair.win_rate:.0%} "
                    f"| {cells.shown(pair, name, 'viditq')} | x{ratio:.2f} |"
                )
    if not lines:
        return []
    return [
        "## TR-DQ against ViDiT-Q",
        "",
        "Bytes of the quantized sites. Four windows store their codes four times, one window once, as ViDiT-Q does; block",
        "rotations are stored in 16 bit beside them, which weighs the more the narrower a layer is.",
        "",
        "| outliers | bits | method | minus viditq, dB | better on | shown | bytes |",
        "|---|---|---|---:|---:|---|---:|",
        *lines,
        "",
    ]


# -- small parts


def kind_of(found: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The rows of one kind of outliers."""
    return next((kind for kind in found["kinds"] if kind["kind"] == name), None)


def row_of(kind: dict[str, Any], way: str, bits: str) -> dict[str, Any] | None:
    """One row."""
    return next((r for r in kind["rows"] if (r["way"], r["bits"]) == (way, bits)), None)


def _title(kind: str) -> str:
    return "As it was trained" if kind == "plain" else f"{kind.capitalize()} outliers"
