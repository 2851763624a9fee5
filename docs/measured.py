"""The block of what was measured: rows of the result files that compare two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .tables import interval, results, table


def measured() -> str:
    """What was measured where: one row per comparison of the result files."""
    return of_rows(measured_rows())


def measured_first() -> str:
    """The first of each command."""
    return of_rows(list({row[-1]: row for row in reversed(measured_rows())}.values())[::-1])


def of_rows(rows: list[tuple[str, ...]]) -> str:
    """As a table."""
    if not rows:
        return "Nothing has been measured yet.\n"
    return table(("what", "mean (95 %)", "seeds", "where, when", "made by"), rows)


def measured_rows() -> list[tuple[str, ...]]:
    """Of every result file that holds comparisons."""
    rows = []
    quality = results("quality")
    if quality:
        n = str(len(quality["seeds"]))
        place = f"{quality['device']}, {quality['date']}"
        for entry in quality["bits"]:
            for pair in entry["pairs"]:
                what = f"{quality['model']} {entry['bits']}: `{pair['a']}` minus `{pair['b']}`, PSNR in dB"
                rows.append((what, interval(pair["diff_db"], "+"), n, place, "`make quality`"))
    peers = results("peers")
    if peers:
        n = str(len(peers["seeds"]))
        place = f"{peers['device']}, {peers['date']}"
        for row in peers["rows"]:
            for ours in row["ours"]:
                what = f"{peers['model']} {row['bits']}: `{ours['method']}` minus {row['library']}, PSNR in dB"
                rows.append((what, interval(ours["diff_db"], "+"), n, place, "`make peers`"))
            if row["error"]:
                rows.append(
                    (
                        f"{peers['model']} {row['bits']}: {row['library']}",
                        "did not run",
                        n,
                        place,
                        "`make peers`",
                    )
                )
    transforms = results("transforms")
    if transforms:
        rows += of_transforms(transforms)
    sharing = results("sharing")
    if sharing:
        rows += of_sharing(sharing)
    learned = results("learned")
    if learned:
        rows += of_learned(learned)
    plans = results("plans")
    if plans:
        rows += of_plans(plans)
    return rows


def difference(
    what: str,
    first: Sequence[float | None],
    second: Sequence[float | None],
    found: dict[str, Any],
    command: str,
) -> tuple[str, ...]:
    """A row about the PSNR of one way minus that of another, sample by sample."""
    from quant.intervals import paired_difference

    pair = paired_difference(first, second).diff
    return (
        f"{what}, PSNR in dB",
        interval(pair and pair.to_json(), "+"),
        str(len(found["seeds"])),
        f"{found['device']}, {found['date']}",
        f"`make {command}`",
    )


def of_transforms(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Two methods at W4A8 on every kind of outlier, out of a page of many."""
    rows: list[tuple[str, ...]] = []
    for kind in found["kinds"]:
        decibels = {
            row["way"]: row["psnr_db"]["per_sample"]
            for row in kind["rows"]
            if row["bits"] == "w4a8"
        }
        where = "as trained" if kind["kind"] == "plain" else f"{kind['kind']} outliers"
        for a, b in (("viditq", "rtn"), ("trdq", "viditq")):
            what = f"{found['model']} w4a8, {where}: `{a}` minus `{b}`"
            rows.append(difference(what, decibels[a], decibels[b], found, "transforms"))
    return rows


def of_learned(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What is learned against what it starts from, its parts and its peers, out of a page of many."""
    decibels = {
        (row["way"], row["bits"]): row["psnr_db"]["per_sample"]
        for part in found["parts"]
        for row in part["rows"]
    }
    pairs = [
        ("w2a16", "vq4dit, 2 candidates", "kmeans-vq"),
        ("w2a16", "vq4dit, 2 candidates", "vq4dit, 1 candidate"),
        ("w2a16", "vq4dit, 2 candidates", "quanto int2, group 128"),
        ("w4a8", "taqdit, joint", "taqdit, plain"),
        ("w4a8", "taqdit, joint", "taqdit, separate"),
    ]
    rows: list[tuple[str, ...]] = []
    for bits, a, b in pairs:
        if (a, bits) not in decibels or (b, bits) not in decibels:
            continue
        what = f"{found['model']} {bits}: `{a}` minus `{b}`"
        rows.append(difference(what, decibels[a, bits], decibels[b, bits], found, "learned"))
    return rows


def of_plans(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What a solved plan gains over each other at the same bytes."""
    rows: list[tuple[str, ...]] = []
    place = f"{found['device']}, {found['date']}"
    for kind in found["kinds"]:
        where = "as trained" if kind["kind"] == "plain" else f"{kind['kind']} outliers"
        for budget in kind["budgets"]:
            for pair in budget["pairs"]:
                what = (
                    f"{found['model']}, bytes of w{budget['bits']}, {where}: latent loss of {pair['against']} bits "
                    "over that of the solved plan, dB"
                )
                db = pair["db"]
                rows.append((what, interval(db["diff"], "+"), str(db["n"]), place, "`make plans`"))
    return rows


def of_sharing(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What shared attention costs `trdq` at every threshold of similarity."""
    rows: list[tuple[str, ...]] = []
    decibels = {
        (row["base"], row["variant"]): row["psnr_db"]["per_sample"] for row in found["rows"]
    }
    for base, variant in decibels:
        if base == "full-precision" or not variant.startswith("map, similarity"):
            continue
        what = f"{found['model']} {base}: `trdq` with attention sharing ({variant}) minus without"
        rows.append(
            difference(what, decibels[base, variant], decibels[base, "off"], found, "sharing")
        )
    return rows
