"""cpu.md from cpu.json: nothing in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .bars import Bars

PLAIN = "float32"


def markdown(found: dict[str, Any]) -> str:
    """The page."""
    block, model = found["block"], found["model"]
    lines = [
        "# Quantized on a processor",
        "",
        "Written by `make cpu` from `docs/results/cpu.json`; do not edit.",
        "",
        f"{found['device']} ({found['kind']}); torch {found['versions']['torch']}; {found['date']}. Measured: the least of interleaved runs in one process.",
        "A speed is the time of float32 over that of the column, in the same run: above 1 is faster than float32. `simulate` is the definition,",
        "`integer` multiplies 8-bit integers, `auto` takes the one that was measured faster for each shape. A dash: not exact on this processor.",
        "",
        "![Bars of the speeds below](cpu.svg)",
        "",
        "## Linear layers",
        "",
        *_linears(found["linears"]),
        "",
        f"## One block of DiT-XL/2's width, {block['tokens']} tokens",
        "",
        *_speeds(block["seconds"]),
        "",
        f"## `{model['model']}`, one evaluation of {model['samples']} samples",
        "",
        *_speeds(model["seconds"]),
        "",
        "## Memory of quantized sites",
        "",
        "Resident bytes over those of the same weights in float32, one block of DiT-XL/2's width, counted after it ran. In mode `memory` a",
        "layer holds what is stored and expands it in every call. In mode `speed` it holds what its product reads: for `integer` a byte a weight, in the",
        "place of the stored codes, which come back of it to the bit; for `simulate` the weight in float32, beside what is stored.",
        "",
        *_resident(found["resident"]),
    ]
    return "\n".join([*lines, ""])


CAPTION = "Time of float32 over that of each way: beyond the line it is faster"


def figure(found: dict[str, Any]) -> list[Bars]:
    """Speeds over float32: of the layers by integer arithmetic and by peers, of the block, of the model."""
    block, model = found["block"], found["model"]
    groups = [
        (f"{row['m']} x {row['k']} x {row['n']}", row["seconds"], ("integer", "torch"))
        for row in found["linears"]
    ]
    groups.append(
        (
            f"Block of DiT-XL/2's width, {block['tokens']} tokens",
            block["seconds"],
            ("simulate", "auto"),
        )
    )
    groups.append((f"{model['model']}, one evaluation", model["seconds"], ("simulate", "auto")))
    return [
        Bars(title, {way: seconds[PLAIN] / s for way, s in seconds.items() if way.startswith(ways)})
        for title, seconds, ways in groups
    ]


def _linears(rows: list[dict[str, Any]]) -> Iterator[str]:
    ways = list(dict.fromkeys(way for row in rows for way in row["seconds"] if way != PLAIN))
    yield "| rows | inputs | outputs | float32, ms | " + " | ".join(ways) + " |"
    yield "|" + "---:|" * (4 + len(ways))
    for row in rows:
        seconds = row["seconds"]
        told = " | ".join(_speed(seconds, way) for way in ways)
        yield f"| {row['m']} | {row['k']} | {row['n']} | {seconds[PLAIN] * 1e3:.2f} | {told} |"


def _speeds(seconds: Mapping[str, float]) -> Iterator[str]:
    yield "| | ms | speed |"
    yield "|---|---:|---:|"
    for way, taken in seconds.items():
        yield f"| {way} | {taken * 1e3:.2f} | {_speed(seconds, way)} |"


def _speed(seconds: Mapping[str, float], way: str) -> str:
    return f"{seconds[PLAIN] / seconds[way]:.2f}" if way in seconds else "-"


def _resident(rows: list[dict[str, Any]]) -> Iterator[str]:
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    yield "| weights | inputs | " + " | ".join(f"mode `{mode}`" for mode in modes) + " |"
    yield "|---|---|" + "---:|" * len(modes)
    for weights in dict.fromkeys(row["weights"] for row in rows):
        of = {row["mode"]: row for row in rows if row["weights"] == weights}
        told = " | ".join(f"{of[mode]['ratio']:.3f} ({of[mode]['backend']})" for mode in modes)
        yield f"| {weights} | {next(iter(of.values()))['inputs']} | {told} |"
