"""peers.md from peers.json: nothing on it is written by hand."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """peers.md from peers.json: nothing in it is written by hand."""
    versions_line = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    sampler = result["sampler"]
    n = len(result["seeds"])
    lines = [
        "# Other quantizers beside ours",
        "",
        "Written by `make peers` from `docs/results/peers.json`; do not edit.",
        "",
        f"Model `{result['model']}` (weights {result['weights']}), {result['sites']} sites, the same for everyone; "
        f"{n} seeds ({result['seeds'][0]} to {result['seeds'][-1]}), {sampler['scheduler']}, {sampler['steps']} steps, "
        f"guidance {sampler['guidance']:g}. Calibration, where a method has one: seeds "
        f"{result['calibration_seeds'][0]} to {result['calibration_seeds'][-1]}. {result['device']}; {versions_line}; {result['date']}.",
        "",
        "PSNR is against full precision with the same seed, class, starting noise and sampler. Difference: ours minus "
        "the peer, per seed, mean with its 95 % bootstrap interval. Bytes are those of the quantized sites: codes, "
        "scales, zero points and transforms; `/ peer` compares them, `file / peer` the transformer's whole file, whose "
        f"other {result['rest_bytes']:,} bytes are the same for everyone (equal means within 3 %). Decibels of this "
        "small model say nothing about other models.",
        "",
        "| who | bits | bytes | / peer | file / peer | PSNR dB (95 %) | min dB | ours - peer, dB (95 %) | wins | verdict |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        if row["error"]:
            lines.append(
                f"| **{row['library']}** {row['title']} | {row['bits']} | | | | | | | | does not run: {cell(row['error'])} |"
            )
            continue
        lines.append(
            f"| **{row['library']}** {row['title']} | {row['bits']} | {row['site_bytes']:,} | 1 | 1 | {interval(row['psnr_db'])} "
            f"| {row['psnr_db']['min']:.2f} | | | |"
        )
        for ours in row["ours"]:
            group = f", group {ours['group']}" if ours["group"] else ", per row"
            diff = ours["diff_db"]
            lines.append(
                f"| ours: {ours['method']}{group} | {ours['bits']} | {ours['site_bytes']:,} | {ours['site_bytes_ratio']:.3f} | {ours['file_bytes_ratio']:.3f} "
                f"| {interval(ours['psnr_db'])} | {ours['psnr_db']['min']:.2f} | {interval(diff, sign=True)} "
                f"| {ours['win_rate']:.0%} | {verdict(ours)} |"
            )
    lines += ["", conclusion(result), ""]
    return "\n".join(lines)


def verdict(ours: dict[str, Any]) -> str:
    """One or two words per row."""
    words = "worse" if ours["worse"] else "not worse"
    diff = ours["diff_db"]
    if diff and diff["lo"] is not None and diff["lo"] > 0:
        words = "better"
    if not ours["same_bytes"]:
        words += "; bytes differ by more than 3 %"
    if not ours["enough"]:
        words += "; too few seeds"
    return words


def conclusion(result: dict[str, Any]) -> str:
    """The checked sentence below the table."""
    ours = [(row, mine) for row in result["rows"] for mine in row["ours"]]
    lost = [f"{mine['method']} beside {row['key']}" for row, mine in ours if mine["worse"]]
    unlike = [
        f"{mine['method']} beside {row['key']}" for row, mine in ours if not mine["same_bytes"]
    ]
    bound = result["not_worse_db"]
    text = f"No interval lies wholly below {bound} dB: ours is not worse in any of the {len(ours)} comparisons."
    if lost:
        text = f"**Worse** (interval wholly below {bound} dB): {', '.join(lost)}."
    if unlike:
        text += f" Not at equal bytes: {', '.join(unlike)}."
    return text


def interval(value: dict[str, Any] | None, sign: bool = False) -> str:
    """`12.34 (12.00 to 12.70)`."""
    if value is None:
        return "identical"
    plus = "+" if sign else ""
    mean = format(value["mean"], f"{plus}.2f")
    if value["lo"] is None:
        return mean
    return f"{mean} ({format(value['lo'], f'{plus}.2f')} to {format(value['hi'], f'{plus}.2f')})"


def cell(text: str) -> str:
    """Text that cannot break a table."""
    return text.replace("|", "\\|").replace("\n", " ")[:200]
