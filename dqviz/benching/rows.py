"""What was timed as rows, one for each of ours beside each peer, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import fsum, prod
from typing import Any

from ..tables import table
from .evaluations import METHOD, Evaluated
from .linears import Timed
from .peaks import Peaks
from .subject import Heads, Layer

Row = dict[str, Any]
Counts = Mapping[tuple[int, ...], int]  # of layers or attentions, by shape
PRODUCT = ("m", "k", "n")
ATTENTION = ("samples", "heads", "queries", "keys", "channels")
BITS = {"fp8_linear": "w8a8 e4m3", "int_attention": "q8k8"}


def of_layer(found: Timed, peaks: Peaks) -> Iterator[Row]:
    """ratio = time of the peer / ours; roofline: the share of the least time that the device's peaks allow."""
    layer = found.layer
    for (bits, backend), seconds in found.ours.items():
        floor = peaks.floor(found.bytes[bits], layer.operations, backend != "simulate")
        about = {
            "op": "int_linear",
            "shape": {"m": layer.m, "k": layer.k, "n": layer.n},
            "count": layer.count,
            "bits": bits,
            "backend": backend,
            "auto": found.taken[bits] == backend,
            "bytes": found.bytes[bits],
            "flops": layer.operations,
        }
        yield from _beside(about, seconds, found.peers, floor)


def of_evaluation(
    found: Evaluated, layers: Sequence[Timed], samples: int, peaks: Peaks
) -> Iterator[Row]:
    """Bytes, operations and roofline are those of the quantized layers alone."""
    operations = sum(one.layer.operations * one.layer.count for one in layers)
    for (bits, backend), seconds in found.ours.items():
        floors = [
            peaks.floor(one.bytes[bits], one.layer.operations, taken != "simulate")
            for one in layers
            for taken in [one.taken[bits] if backend == "auto" else backend]
            for _ in range(one.layer.count)
        ]
        known = [floor for floor in floors if floor is not None]
        about = {
            "op": "evaluation",
            "shape": {"samples": samples, "layers": sum(one.layer.count for one in layers)},
            "count": 1,
            "bits": bits,
            "backend": backend,
            "auto": backend == "auto",
            "bytes": sum(one.bytes[bits] * one.layer.count for one in layers),
            "flops": operations,
        }
        floor = fsum(known) if known and len(known) == len(floors) else None
        yield from _beside(about, seconds, found.peers, floor)


def of_table(op: str, row: Mapping[str, Any], counts: Counts) -> Iterator[Row]:
    """A row of the table that `auto` decides by: the faster path beside its definition and full precision."""
    shape = {name: row[name] for name in (PRODUCT if "m" in row else ATTENTION)}
    backend = next(b for b in ("integer", "triton") if f"seconds_{b}" in row)
    bits = f"w{row['weight_bits']}a{row['act_bits'] or 16}" if "act_bits" in row else BITS[op]
    about = {
        "op": op,
        "shape": shape,
        "count": counts.get(tuple(shape.values()), 0),
        "bits": bits,
        **{name: row[name] for name in ("group", "corrected") if name in row},
        "backend": backend,
        "bytes": None,
        "flops": (2 if "m" in row else 4) * prod(shape.values()),
    }
    full = {"float32": "fp32", "bfloat16": "bf16"}
    peers = {"simulate": "simulate"} | {
        peer: n for peer, n in full.items() if f"seconds_{n}" in row
    }
    others = {peer: row[f"seconds_{name}"] for peer, name in peers.items()}
    yield from _beside(about, row[f"seconds_{backend}"], others, None)


def of_tile(table: str, row: Mapping[str, Any], counts: Counts) -> Iterator[Row]:
    """A tile beside the default one; seconds are not kept, the gain is."""
    op = table.removesuffix("_tiles")
    shape = {name: row[name] for name in PRODUCT}
    yield {
        "op": op,
        "shape": shape,
        "count": counts.get(tuple(shape.values()), 0),
        "bits": ("w4a8" if row["packed"] else "w8a8") if "packed" in row else BITS[op],
        "after": row["after"],
        "tile": row["tile"],
        "backend": "triton",
        "bytes": None,
        "flops": 2 * row["m"] * row["k"] * row["n"],
        "peer": "default tile",
        "ratio": row["ratio"],
        "seconds": None,
        "peer_seconds": None,
        "roofline": None,
    }


def _beside(
    about: Row, seconds: float, others: Mapping[str, float], floor: float | None
) -> Iterator[Row]:
    for peer, taken in others.items():
        yield {
            **about,
            "peer": peer,
            "ratio": round(taken / seconds, 4),
            "seconds": seconds,
            "peer_seconds": taken,
            "roofline": None if floor is None else round(floor / seconds, 4),
        }


def counts(shapes: Iterable[Layer | Heads]) -> dict[tuple[int, ...], int]:
    """How many layers, or attentions, have a shape; queries and keys of these are as many."""
    found = {}
    for one in shapes:
        if isinstance(one, Layer):
            found[one.m, one.k, one.n] = one.count
        else:
            found[one.samples, one.heads, one.tokens, one.tokens, one.channels] = one.count
    return found


def shown(made: Mapping[str, Any]) -> str:
    """A line for each of ours; a column for each peer, how much faster than it ours is."""
    peers = list(dict.fromkeys(row["peer"] for row in made["rows"]))
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in made["rows"]:
        key = (row["op"], _shape(row["shape"]), row["count"], row["bits"], _backend(row))
        lines.setdefault(key, {})[row["peer"]] = row
    head = ("op", "m x k x n", "layers", "bits", "backend", "ms", *peers, "roofline")
    cells = []
    for key, by_peer in lines.items():
        one = next(iter(by_peer.values()))
        ms = "-" if one["seconds"] is None else f"{one['seconds'] * 1e3:.3f}"
        ratios = (f"{by_peer[p]['ratio']:.2f}x" if p in by_peer else "-" for p in peers)
        share = "-" if one["roofline"] is None else f"{one['roofline']:.0%}"
        cells.append((*key, ms, *ratios, share))
    return "\n\n".join([_place(made), table(head, cells), *_notes(made)])


def _shape(shape: Mapping[str, int]) -> str:
    if "heads" in shape:
        return " x ".join(str(size) for size in shape.values())
    if "samples" in shape:
        return f"{shape['samples']} sample{'' if shape['samples'] == 1 else 's'}"
    return " x ".join(str(shape[name]) for name in "mkn")


def _backend(row: Row) -> str:
    """With what tells rows of one backend apart; * where `auto` takes it."""
    if "tile" in row:
        after = f", {row['after']}" if row["after"] else ""
        return f"triton {'x'.join(str(row['tile'][n]) for n in ('BM', 'BN'))}{after}"
    if "corrected" in row:
        group = f", groups of {row['group']}" if row["group"] else ""
        return f"{row['backend']}{group}{', corrected' if row['corrected'] else ''}"
    return f"{row['backend']}{' *' if row.get('auto') and row['op'] != 'evaluation' else ''}"


def _place(made: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in made["versions"].items() if v is not None)
    threads = f"{made['threads']} thread{'' if made['threads'] == 1 else 's'}"
    return (
        f"{made['model']} on {made['device']} ({made['kind']}), {made['dtype']}, {threads}, {versions}, {made['date']}\n"
        f"measured: the least of {made['runs']} interleaved runs; columns of peers say how many times faster ours is"
    )


def _notes(made: Mapping[str, Any]) -> list[str]:
    timed = not made["tables"]
    notes = []
    if timed:
        notes.append(
            f"*: what --backend auto takes. roofline: least time by {made['peaks']['source']}, over ours. An evaluation is "
            f"by {METHOD}, all guidance branches."
        )
    by_reason: dict[str, list[str]] = {}
    for what, why in made["left_out"].items():
        by_reason.setdefault(why, []).append(what)
    for why, what in by_reason.items():
        more = f" and {len(what) - 1} more" if len(what) > 1 else ""
        notes.append(f"left out, {what[0]}{more}: {why}")
    notes += [f"note: {warning}" for warning in made["warnings"]]
    return notes + [f"table: {path}" for path in made["tables"]]
