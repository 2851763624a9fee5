"""learned.md from learned.json: nothing on it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import cells

EQUAL_BYTES = 0.03  # stored bytes this close count as equal
LEARNED = "vq4dit, 2 candidates"
JOINT = "taqdit, joint"
TITLES = {
    "codebooks": "Weights alone: VQ4DiT",
    "integers": "8-bit activations, 4-bit weights: TaQ-DiT",
}
NOTES = {
    "codebooks": "Weights of every linear layer of the blocks, adaptive layer norms included; activations stay.",
    "integers": "`static-step` has a static range per step, `taqdit` one for all steps, also of queries, keys, values and softmax "
    "outputs, and 8-bit weights in the first and last layers. `adaround` rounds activations row by row as they come, "
    "which is easier, and leaves the insides of attentions alone.",
}


def markdown(found: dict[str, Any]) -> str:
    """The page."""
    sampler = found["sampler"]
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        "# Learned methods",
        "",
        "Written by `make learned` from `docs/results/learned.json`; do not edit.",
        "",
        f"Model `{found['model']}`. {len(found['seeds'])} seeds ({found['seeds'][0]} to {found['seeds'][-1]}) over every "
        f"trained class; nothing was learned from or calibrated on them. {sampler['scheduler']}, {sampler['steps']} steps, "
        f"guidance {sampler['guidance']:g}. {found['device']}; {packages}; {found['date']}. "
        f"Engine source {', '.join(found['sources'])}.",
        "",
        "PSNR, latent error and SSIM are against full precision of the same seed, class, noise and sampler: mean with its 95 %",
        "bootstrap interval. Block error: mean squared error of the blocks' outputs on full precision's trajectories, from",
        f"seeds {found['held_out'][0]} to {found['held_out'][-1]}, which nothing was learned from, over the mean square of those outputs. Decibels of",
        "this small model say nothing about other models. Learning took the quick presets of the methods' cards; seconds are",
        "of one run, with whatever else the machine did.",
        "",
        *_targets(found),
    ]
    for part in found["parts"]:
        lines += _part(found, part)
    lines += _projected(found["projected"])
    lines += [
        "## Yardstick",
        "",
        "The same model, changed a little.",
        "",
        "| rung | PSNR dB | latent error |",
        "|---|---:|---:|",
        *(
            f"| {r['title']} | {cells.mean(r['psnr_db'])} | {cells.mean(r['latent_rel_error'], 4)} |"
            for r in found["ladder"]
        ),
        "",
    ]
    return "\n".join(lines)


def _projected(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Hours that nobody waited for."""
    lines = [
        "## On DiT-XL/2, projected",
        "",
        "Presets of the papers on this device, from measured steps on one block of that width with random weights, times 28 blocks",
        "(`benchmarks/learning_steps.py`). Nobody waited that long: these presets are for a GPU.",
        "",
        "| method | bits | stage | seconds of a step, one block | steps | hours, 28 blocks |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        for stage in row["stages"]:
            hours = 28 * stage["seconds"] * stage["steps"] / 3600
            lines.append(
                f"| {row['method']} | {row['bits']} | {stage['stage']} | {stage['seconds']:.2f} | {stage['steps']} | {hours:.1f} |"
            )
        lines.append(
            f"| **{row['method']}** | {row['bits']} | all | | | **{row['seconds'] / 3600:.0f}** |"
        )
    return [*lines, ""]


def block_error(row: dict[str, Any]) -> float:
    """Mean squared error of the blocks over their mean square."""
    errors = row["block_errors"]
    return sum(m / p for m, p in zip(errors["mse"], errors["power"], strict=True)) / len(errors["mse"])  # fmt: skip


def row_of(rows: Iterable[dict[str, Any]], way: str, bits: str) -> dict[str, Any] | None:
    """One row of a part."""
    return next((r for r in rows if r["way"] == way and r["bits"] == bits), None)


def _targets(found: dict[str, Any]) -> list[str]:
    lines = []
    rows = {part["part"]: part["rows"] for part in found["parts"]}
    lines += _of_codebooks(rows.get("codebooks", []))
    lines += _of_integers(rows.get("integers", []))
    if not lines:
        return []
    return ["## Targets", "", "| target | measured | met |", "|---|---|---|", *lines, ""]


def _line(target: str, measured: str, met: bool) -> str:
    return f"| {target} | {measured} | {'yes' if met else '**no**'} |"


def _of_codebooks(rows: Sequence[dict[str, Any]]) -> list[str]:
    by_name = {r["way"]: r for r in rows if r["bits"] == "w2a16"}
    learned, plain = by_name.get(LEARNED), by_name.get("kmeans-vq")
    if learned is None or plain is None:
        return []
    lines = []
    cut = 1 - block_error(learned) / block_error(plain)
    lines.append(_line("2-bit VQ4DiT cuts the held-out block error of k-means by at least 25 %", f"{cut:.0%}", cut >= 0.25))  # fmt: skip
    others = [r for name, r in by_name.items() if name in ("kmeans-vq", "quanto int2, group 128")]
    best = max(others, key=lambda r: r["psnr_db"]["mean"])
    pair = cells.difference(learned, best)
    gain = 0.0 if pair.diff is None else pair.diff.mean
    ratio = learned["site_bytes"] / best["site_bytes"]
    lines.append(
        _line(
            "2-bit VQ4DiT is 3 dB ahead of the better of k-means and quanto's int2",
            f"`{best['way']}` {cells.mean(best['psnr_db'])} dB: {cells.diff(pair)} dB at {ratio:.2f} x its bytes",
            gain >= 3,
        )
    )
    alone = by_name.get("vq4dit, 1 candidate")
    if alone is not None:
        more = {n: by_name[f"vq4dit, {n} candidates"] for n in (2, 3) if f"vq4dit, {n} candidates" in by_name}  # fmt: skip
        pairs = {n: cells.difference(row, alone) for n, row in more.items()}
        said = "; ".join(f"{n}: {cells.diff(pair)} dB" for n, pair in pairs.items())
        lines.append(_line("2 or 3 candidates beat 1 (codebooks alone)", said, any(p.claim == "a better" for p in pairs.values())))  # fmt: skip
    if learned["seconds"] is not None:
        lines.append(_line("2-bit VQ4DiT learns in 10 minutes", f"{learned['seconds']:.0f} s", learned["seconds"] <= 600))  # fmt: skip
    return lines


def _of_integers(rows: Sequence[dict[str, Any]]) -> list[str]:
    by_name = {r["way"]: r for r in rows if r["bits"] == "w4a8"}
    joint = by_name.get(JOINT)
    if joint is None or not joint["measures"]:
        return []
    lines = []
    units = joint["measures"]["units"]
    cut = 1 - sum(u["hard_now"] / u["hard_before"] for u in units) / len(units)
    lines.append(_line("TaQ-DiT's hard-rounded unit error is at least 10 % below nearest rounding", f"{cut:.0%}, mean over {len(units)} units", cut >= 0.1))  # fmt: skip
    apart = by_name.get("taqdit, separate")
    if apart is not None and apart["measures"]:
        other = {u["unit"]: u["hard_now"] for u in apart["measures"]["units"]}
        shares = [u["hard_now"] / other[u["unit"]] for u in units if u["unit"] in other]
        mean = sum(shares) / len(shares)
        lines.append(_line("and not above that of separate reconstruction, on average", f"{mean:.3f} x", mean <= 1))  # fmt: skip
    if joint["seconds"] is not None:
        lines.append(_line("TaQ-DiT W4A8 learns in 15 minutes", f"{joint['seconds']:.0f} s", joint["seconds"] <= 900))  # fmt: skip
    return lines


def _part(found: dict[str, Any], part: dict[str, Any]) -> list[str]:
    accuracy = cells.share(found["class_accuracy"])
    lines = [f"## {TITLES[part['part']]}", "", f"{NOTES[part['part']]} Full precision: class accuracy {accuracy}.", ""]  # fmt: skip
    lines += [
        "| bits | method | PSNR dB | of mean MSE | min dB | latent error | SSIM | class accuracy | block error | bits / weight | site MB | learned in | evidence |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in part["rows"]:
        psnr = row["psnr_db"]
        took = "-" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        lines.append(
            f"| {row['bits']} | {row['way']} | {cells.mean(psnr)} | {psnr['of_mean_mse']:.2f} | {psnr['min']:.2f} "
            f"| {cells.mean(row['latent_rel_error'], 4)} | {row['ssim']['mean']:.4f} | {cells.share(row['class_accuracy'])} "
            f"| {block_error(row):.4f} | {row['bits_per_weight']:.2f} | {row['site_bytes'] / 1e6:.2f} | {took} | {row['evidence']} |"
        )
    against = LEARNED if part["part"] == "codebooks" else JOINT
    lines += [
        "",
        f"`{against}` minus the others at the same bits, sample by sample; bytes of the quantized sites, its own over theirs"
        f" (**bold** within {EQUAL_BYTES:.0%}).",
        "",
        "| bits | method | PSNR, dB | better on | worst decile, dB | shown | bytes |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    for row in part["rows"]:
        own = row_of(part["rows"], against, row["bits"])
        if own is None or own is row:
            continue
        pair, ratio = cells.difference(own, row), own["site_bytes"] / row["site_bytes"]
        said = f"x{ratio:.3f}"
        lines.append(
            f"| {row['bits']} | {row['way']} | {cells.diff(pair)} | {pair.win_rate:.0%} | {cells.signed(pair.worst_decile)} "
            f"| {cells.shown(pair, against, row['way'])} | {f'**{said}**' if abs(ratio - 1) <= EQUAL_BYTES else said} |"
        )
    return [*lines, "", *_distances(found, part), *_trajectory(part)]


def _distances(found: dict[str, Any], part: dict[str, Any]) -> list[str]:
    rows = [r for r in part["rows"] if "distances" in r]
    if not rows:
        return []
    lines = [
        f"Distances between {found['many']} pictures and as many of full precision with the same seeds: {rows[0]['distances']['label']}.",
        "",
        "| bits | method | features | Frechet | KID | class accuracy |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        for name, distance in row["distances"].items():
            if isinstance(distance, dict):
                lines.append(
                    f"| {row['bits']} | {row['way']} | {name.replace('_', ' ')} | {distance['frechet']:.4g} "
                    f"| {distance['kid']['mean']:.4g} | {cells.share(row['class_accuracy_many'])} |"
                )
    return [*lines, ""]


def _trajectory(part: dict[str, Any]) -> list[str]:
    lines = [
        "Along the trajectory: relative error of one evaluation on full precision's input (first step, mean, last step), and what",
        "has gathered half way and at the end.",
        "",
        "| bits | method | first | mean | last | gathered, half | gathered, end |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in part["rows"]:
        forced, free = row["teacher_forced"], row["free_running"]
        lines.append(
            f"| {row['bits']} | {row['way']} | {forced[0]:.4f} | {sum(forced) / len(forced):.4f} | {forced[-1]:.4f} "
            f"| {free[len(free) // 2]:.4f} | {free[-1]:.4f} |"
        )
    return [*lines, ""]
