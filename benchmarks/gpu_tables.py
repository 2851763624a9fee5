"""gpu.md from gpu.json: nothing on it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .bars import Bars

Row = Mapping[str, Any]
GRAPH = ", CUDA graph"
COMPILED = "bf16 compiled"  # a whole step
PEER = "compiled bf16"  # one product
FOUND = {"relative_error": "error", "off_by_one": "off by one", "scale": "scale"}
STEPS = ("step", "retuned")


def markdown(found: dict[str, Any]) -> str:
    """The whole page."""
    rows = by_stage(found["rows"])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    clocks = next((call["clocks"] for call in found["calls"] if call["clocks"]), {})
    said = ", ".join(f"{name} {value}" for name, value in clocks.items())
    lines = [
        "# On a GPU",
        "",
        "Written by `make gpu-results` from `docs/results/gpu.json`; do not edit. How it is measured: [gpu.md](../gpu.md).",
        "",
        f"{found['device']} ({found['architecture']}); {versions}, CUDA {found.get('cuda')}; {found['date']}. "
        f"{f'At the start: {said}. ' if said else ''}Measured, on random data; medians, first and last decile in brackets. "
        "A ratio is the time of the other over ours: above 1 ours is faster.",
        "",
        *(
            ["![Bars of the ratios below](gpu.svg)", ""]
            if any(g.ratios for g in figure(found))
            else []
        ),
        *correctness(rows.get("correctness", []), found.get("lacks_floats")),
        *steps(rows),
        *products(rows.get("ops", [])),
        *passes(rows.get("ops", [])),
        *codebooks(rows.get("ops", [])),
        *attention(rows.get("attention", [])),
        *tiles(rows.get("tuning", [])),
        *failures(found["rows"]),
        *not_reached(found),
    ]
    return "\n".join([*lines, ""])


def headline(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of every whole step of ours: what, time, over compiled and over eager bfloat16."""
    return [
        (f"{scene}, {way}", cell(time), over_compiled, over_eager)
        for _, scene, way, time, over_compiled, over_eager in ways_of(by_stage(found["rows"]))
        if way.startswith("w")
    ]


CAPTION = "Time of compiled bfloat16 over ours: beyond the line ours is faster"


def figure(found: dict[str, Any]) -> list[Bars]:
    """The whole step of every scene, then every product, over compiled bfloat16."""
    rows = by_stage(found["rows"])
    scenes: dict[str, dict[str, float]] = {}
    for row, scene, way, *_ in ways_of(rows):
        least = over_compiled(row["ratios"][way])
        if least is not None:
            scenes.setdefault(scene, {})[way] = least
    groups = [Bars(f"Step, {scene}", ratios) for scene, ratios in scenes.items()]
    for row in rows.get("ops", []):
        over = {way: ratios.get(PEER) for way, ratios in row.get("ratios", {}).items()}
        known = {way: ratio for way, ratio in over.items() if ratio is not None}
        groups.append(Bars(named(row), known))
    return groups


HEADLINE = ("whole step of DiT-XL/2", "ms", "over compiled bf16", "over eager bf16")


def by_stage(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """By the first part of their key."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["key"].partition("/")[0], []).append(row)
    return found


def correctness(rows: list[Row], lacks_floats: str | None) -> list[str]:
    """First, because times of what is wrong are not taken."""
    right = sum(bool(row.get("right")) for row in rows)
    lines = [
        "## Correctness",
        "",
        f"{right} of {len(rows)} checks are right. An output is held against the definition in float64; a compiled call and a replayed "
        "CUDA graph have to give the same bits as the eager call.",
        "",
        *([f"8-bit floats are left out: {lacks_floats}.", ""] if lacks_floats else []),
        *head("check", "numbers", "found", "compiled", "CUDA graph"),
    ]
    for row in rows:
        numbers = "right" if row.get("right") else "**wrong**"
        found = [f"{title} {row[name]}" for name, title in FOUND.items() if name in row]
        cells = (
            named(row),
            numbers,
            row.get("error") or ", ".join(found),
            row.get("compiled", ""),
            row.get("graph", ""),
        )
        lines.append(line(*cells))
    return [*lines, ""]


def ways_of(rows: Mapping[str, list[Row]]) -> list[tuple[Row, str, str, Row, str, str]]:
    """Of each way to evaluate the network: its row, the scene, its name, its time, and the ratios to the faster compiled way and to eager."""
    found = []
    for stage in STEPS:
        for row in rows.get(stage, []):
            if "times" not in row:
                continue
            scene = f"{row['scene']['pixels']} px, {row['scene']['samples']} samples"
            scene += ", tuned" if stage == "retuned" else ""
            for way, ratios in row["ratios"].items():
                if "median_us" not in row["times"][way]:
                    continue
                over = (number(over_compiled(ratios)), number(ratios.get("bf16")))
                found.append((row, scene, way, row["times"][way], *over))
    return found


def over_compiled(ratios: Mapping[str, float | None]) -> float | None:
    """The ratio to the faster of compiled bfloat16's eager launches and its CUDA graph."""
    known = (ratios.get(name) for name in (COMPILED, f"{COMPILED}{GRAPH}"))
    return min((ratio for ratio in known if ratio is not None), default=None)


def steps(rows: Mapping[str, list[Row]]) -> list[str]:
    """The whole step."""
    found = ways_of(rows)
    if not found:
        return []
    lines = [
        "## Whole step of DiT-XL/2",
        "",
        "Random weights; samples count once, guidance doubles them. Compiled is Inductor, block by block; its ratio is to the faster of its "
        "eager launches and its CUDA graph, which were timed in turn with ours. Difference: of outputs, relative, from bfloat16's. "
        "Peak: what the allocator holds at most during a step beside weights. Share: of the data sheet's peaks, `quant/roofline.py`.",
        "",
        *head("drawn", "way", "ms", "over compiled bf16", "over eager bf16", "weights, MiB", "bf16's", "peak, MiB", "bf16's", "difference", "share"),
    ]  # fmt: skip
    for row, scene, way, time, compiled, eager in found:
        memory = row["memory"]
        sizes = (mib(memory[n]) for n in ("weights", "weights_bf16", "peak", "peak_bf16"))
        share = row["share_of_peak"].get(way)
        cells = (scene, way, cell(time), compiled, eager, *sizes, str(row["difference"]))
        lines.append(line(*cells, "" if share is None else f"{share:.0%}"))
    return [*lines, ""]


def products(rows: list[Row]) -> list[str]:
    """`int_linear` beside its peers."""
    own = [row for row in rows if "/int_linear" in row["key"] and "times" in row]
    if not own:
        return []
    peers = names_of(own, "w")
    lines = [
        "## int_linear",
        "",
        "From row codes to bfloat16, with bias and what comes after (GELU; gate and residual); w8a16 and w4a16 from rows in bfloat16, which "
        "are not quantized; w8a8 e4m3 is `fp8_linear`. Share: of the data sheet's peaks.",
        "",
        *head("layer", "m x k x n", "ours", "µs", *(f"over {p}" for p in peers), "share"),
    ]
    for row in own:
        shape = row["shape"]
        for way, ratios in row["ratios"].items():
            share = row["share_of_peak"].get(way)
            lines.append(
                line(
                    named(row),
                    f"{shape['m']} x {shape['k']} x {shape['n']}",
                    way,
                    cell(row["times"][way], 1),
                    *(number(ratios.get(peer)) for peer in peers),
                    "" if share is None else f"{share:.0%}",
                )
            )
    return [*lines, ""]


def passes(rows: list[Row]) -> list[str]:
    """Passes over memory."""
    own = [row for row in rows if "bytes_per_second" in row]
    if not own:
        return []
    lines = [
        "## Passes over memory",
        "",
        "Beside the same in PyTorch's operations, and a copy of as many bytes: its share is the time of the copy over ours.",
        "",
        *head("op", "ours, µs", "over eager", "over compiled", "over ours, not rotated", "of copy's bandwidth", "copy, TB/s"),
    ]  # fmt: skip
    for row in own:
        ratios = row["ratios"].get("ours", {})
        cells = (number(ratios.get(n)) for n in ("eager", "compiled", "ours, not rotated", "copy"))
        speed = row["bytes_per_second"].get("copy")
        lines.append(
            line(
                named(row),
                cell(row["times"].get("ours", {}), 1),
                *cells,
                "" if speed is None else f"{speed / 1e12:.2f}",
            )
        )
    return [*lines, ""]


def codebooks(rows: list[Row]) -> list[str]:
    """`vq_linear`."""
    own = [row for row in rows if "/vq_linear" in row["key"] and "times" in row]
    if not own:
        return []
    peers = names_of(own, "ours")
    lines = ["## vq_linear", "", *head("layer", "ours, µs", *(f"over {peer}" for peer in peers))]
    for row in own:
        ratios = row["ratios"].get("ours", {})
        said = row["left_out"].get("ours") or cell(row["times"].get("ours", {}), 1)
        lines.append(line(named(row), said, *(number(ratios.get(p)) for p in peers)))
    return [*lines, ""]


def attention(rows: list[Row]) -> list[str]:
    """`int_attention`."""
    own = [row for row in rows if "times" in row]
    if not own:
        return []
    peers = names_of(own, "ours")
    lines = [
        "## int_attention",
        "",
        "From bfloat16 to bfloat16, 16 heads; making codes is timed with it. One map: for the values of two halves of the batch.",
        "",
        *head("heads, samples x rows", "way", "µs", *(f"over {peer}" for peer in peers), "TOPS"),
    ]
    for row in own:
        for way, ratios in row["ratios"].items():
            speed = row["operations_per_second"].get(way)
            cells = (cell(row["times"][way], 1), *(number(ratios.get(p)) for p in peers))
            lines.append(line(named(row), way, *cells, "" if speed is None else f"{speed / 1e12:.0f}"))  # fmt: skip
    return [*lines, ""]


def tiles(rows: list[Row]) -> list[str]:
    """The best tile of every shape that was tried, also where the default is best."""
    tried: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("ratio"):
            layer = named(row).rpartition(f", {row['tile']['BM']}x")[0]
            tried.setdefault(layer, []).append(row)
    if not tried:
        return []
    lines = [
        "## Tiles of int_linear and fp8_linear",
        "",
        *head("layer", "tried", "best tile", "default / best"),
    ]
    for layer, found in tried.items():
        best = max(found, key=lambda row: row["ratio"])
        said = ", ".join(f"{name} {value}" for name, value in best["tile"].items())
        lines.append(line(layer, str(len(found)), said, number(best["ratio"])))
    return [*lines, ""]


def failures(rows: list[Row]) -> list[str]:
    """What went wrong, and what was not timed because its numbers were."""
    found = []
    for row in rows:
        if "error" in row and not row["key"].startswith("correctness/"):
            found.append(f"- {row['key']}: {row['error']}")
        found += [f"- {row['key']}: {w} left out, {why}" for w, why in row.get("left_out", {}).items()]  # fmt: skip
        found += [f"- {row['key']}: {w}: {why}" for w, why in row.get("errors", {}).items()]
        for way, time in row.get("times", {}).items():
            if "error" in time:
                found.append(f"- {row['key']}: {way}: {time['error']}")
    return ["## What failed", "", *found, ""] if found else []


def not_reached(found: dict[str, Any]) -> list[str]:
    """What the time did not suffice for."""
    if not found["not_reached"]:
        return ["Every row was made."]
    lines = ["## Not reached", ""]
    for stage, keys in found["not_reached"].items():
        names = "; ".join(key.partition("/")[2] for key in keys[:4])
        more = f"; and {len(keys) - 4} more" if len(keys) > 4 else ""
        lines.append(f"- {found['stages'].get(stage, stage)}: {names}{more}")
    return lines


def names_of(rows: list[Row], own: str) -> list[str]:
    """What ours is held against in any of these rows: others, and of our own variants, which begin with `own`, w8a8."""
    names = dict.fromkeys(p for row in rows for ratios in row["ratios"].values() for p in ratios)
    return [n for n in names if n == "w8a8" or not n.startswith((own, "ours"))]


def named(row: Row) -> str:
    """The key without its stage."""
    return row["key"].partition("/")[2]


def cell(time: Row, digits: int = 2) -> str:
    """A median with its deciles: in ms, or with one digit in µs."""
    if "median_us" not in time:
        return time.get("error", "")
    scale = 1e-3 if digits == 2 else 1.0
    median, low, high = (
        f"{scale * time[n]:.{digits}f}" for n in ("median_us", "low_us", "high_us")
    )
    return f"{median} ({low} to {high})"


def number(value: float | None) -> str:
    """A ratio."""
    return "" if value is None else f"{value:.2f}"


def mib(size: int | None) -> str:
    """Bytes."""
    return "" if size is None else f"{size / 2**20:.0f}"


def head(*titles: str) -> list[str]:
    """The first two lines of a table."""
    return [line(*titles), f"|{'---|' * len(titles)}"]


def line(*cells: str) -> str:
    """A line of a table; a bar would end a cell."""
    return f"| {' | '.join(part.replace('|', '/') for part in cells)} |"
