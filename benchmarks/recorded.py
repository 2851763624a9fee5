"""Make the study that comes along: `make recorded` (about half an hour on two cores).

Draws dit-emoji in full precision and at several plans, over all its classes, with the yardstick ladder; captures
what viditq does to its inputs; probes what viditq and trdq choose from; settles all of it into assets/studies/dit-emoji. There it is opened read-only, and every
number of it is called recorded: the device, the date and what kind of number it was stand beside it, and no time is
kept, since it would say nothing of the machine that shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dqviz.events import Event, Stage
from dqviz.machine import processor
from dqviz.study import DATABASE, MANIFEST, REPORT, Study, write_json
from quant.errors import BadInput, DQVizError

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "assets" / "studies" / "dit-emoji"
LARGEST = 3_000_000  # bytes of the whole study
COMPARISON: dict[str, Any] = {
    "model": "dit-emoji",
    "methods": "viditq,viditq,viditq,viditq,rtn,rtn",
    "bits": "w8a8,w6a6,w4a8,w4a4,w4a4,w2a16",
    "seeds": "0-23",
    "backend": "simulate",  # the same numbers on every machine
}
CAPTURE: dict[str, Any] = {
    "model": "dit-emoji",
    "method": "viditq",
    "bits": "w4a8",
    "steps": 5,
    "record": {"reservoir": 10, "row_absmax": 16, "surface_mib": 1},
}
PROBES: tuple[dict[str, Any], ...] = tuple(
    {"model": "dit-emoji", "method": method, "bits": "w4a8"} for method in ("viditq", "trdq")
)
HALVED = {"minimum", "maximum", "mean", "second_moment", "mean_abs", "row_absmax", "rows", "in_absmax", "out_absmax"}  # fmt: skip


def record(
    target: Path,
    comparison: Mapping[str, Any],
    capture: Mapping[str, Any] | None,
    probes: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Make the study, settle it and put it in the place of `target`; returns its bytes.

    Args:
        target: folder of the recorded study; an older one is replaced when the new one is complete.
        comparison: request of the comparison.
        capture: request of the capture; None for none.
        probes: requests of probes.

    Raises BadInput for a study that is too large.
    """
    from dqviz.capturing import CaptureRequest
    from dqviz.capturing import capture as make_capture
    from dqviz.comparison import compare
    from dqviz.probing import ProbeRequest, probe
    from dqviz.request import CompareRequest

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".recording-") as scratch:
        os.environ["DQVIZ_HOME"] = (
            scratch  # the default folder: no path of this machine gets into the recipe
        )
        found = compare(CompareRequest.parse(comparison), told, previews=False)
        folder = Path(found["study"])
        if capture is not None:
            make_capture(CaptureRequest.parse(capture), told)
        for request in probes:
            probe(ProbeRequest.parse(request), told)
        settle(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > LARGEST:
            raise BadInput(f"the study takes {size} bytes; at most {LARGEST}")
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return size


def told(event: Event) -> None:
    """A line per stage."""
    if isinstance(event, Stage):
        print(f"  {event.text}", file=sys.stderr)


def settle(folder: Path) -> None:
    """Make a finished study one that only tells: recorded evidence, small files, no working state."""
    study = Study.open(folder)
    result = study.result()
    made = {
        "device": processor(),
        "date": result["created"][:10],
        "versions": study.manifest["versions"],
        "by": "make recorded",
    }
    for file in (*folder.glob("seen*"), folder / REPORT, folder / f"{MANIFEST}.lock"):
        file.unlink(missing_ok=True)
    for picture in folder.glob("images/*/*.png"):
        _packed(picture)
    captures = {row["id"]: reduce_capture(folder / row["file"]) for row in study.captures()}
    for row in folder.glob("captures/*"):
        if row.suffix != ".safetensors":
            shutil.rmtree(row) if row.is_dir() else row.unlink()
    _settle_database(folder / DATABASE, made, captures)
    write_json(folder / MANIFEST, {**study.manifest, "recorded": made})


def recorded_run(run: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record, with what it was in place of what it would claim to be."""
    was = str(run["evidence"])
    why = f"recorded on {made['device']}, {made['date']}; it was {was}: {run.get('backend_why') or run['backend']}"
    return {**run, "evidence": "recorded", "recorded_as": was, "backend_why": why, "seconds_per_sample": None, "device": made["device"]}  # fmt: skip


def _settle_database(
    file: Path, made: Mapping[str, Any], captures: Mapping[int, Mapping[str, Any]]
) -> None:
    """Rewrite the records, and leave one file without a log beside it."""
    db = sqlite3.connect(file, isolation_level=None)
    for number, text in db.execute("SELECT id, record FROM runs").fetchall():
        record_text = _compact(recorded_run(json.loads(text), made))
        db.execute("UPDATE runs SET record = ? WHERE id = ?", (record_text, number))
    for number, text in db.execute("SELECT id, record FROM captures").fetchall():
        untold = dict.fromkeys(("seconds", "overhead_ratio", "peak_bytes", "predicted"))
        said = {
            **json.loads(text),
            **untold,
            **captures[number],
            "evidence": "recorded",
            "device": made["device"],
        }
        db.execute("UPDATE captures SET record = ? WHERE id = ?", (_compact(said), number))
    for number, text in db.execute("SELECT id, record FROM probes").fetchall():
        was = json.loads(text)
        said = {
            **was,
            "seconds": None,
            "evidence": "recorded",
            "recorded_as": was["evidence"],
            "device": made["device"],
        }
        db.execute("UPDATE probes SET record = ? WHERE id = ?", (_compact(said), number))
    db.execute("DELETE FROM metrics WHERE key = 'seconds_per_sample'")
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("VACUUM")
    db.close()


def _compact(data: object) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _packed(picture: Path) -> None:
    """The same pixels and notes in as few bytes as PNG gives."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(picture) as image:
        notes = PngInfo()
        for key, value in image.info.items():
            if isinstance(value, str):
                notes.add_text(str(key), value)
        image.save(picture, optimize=True, pnginfo=notes)


def reduce_capture(file: Path) -> dict[str, Any]:
    """Keep the first and last stage of the first, middle and last block, in half precision where that holds.

    Returns what the capture then holds.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(file, framework="np") as whole:
        described = dict(whole.metadata())
        inputs, weights, stages = (
            json.loads(described[k]) for k in ("inputs", "weights", "stages")
        )
        stages = list(dict.fromkeys((stages[0], stages[-1])))
        blocks = sorted({entry["block"] for entry in inputs if entry["block"] is not None})
        blocks = {blocks[0], blocks[len(blocks) // 2], blocks[-1]}
        places = [i for i, entry in enumerate(inputs) if entry["block"] in blocks]
        inputs = [inputs[i] for i in places]
        names = {entry["name"] for entry in inputs} | {s for e in inputs for s in e["sites"]}
        tensors = {}
        for key in whole.keys():  # noqa: SIM118
            kind, stage, name = key.split("/")[:3]
            if stage in stages and (kind == "summary" or name in names):
                values = whole.get_tensor(key)
                tensors[key] = values[places] if kind == "summary" else smaller(key, values)
    for entry in inputs:
        entry["stages"] = [stage for stage in entry["stages"] if stage in stages]
    weights = {s: [t for t in has if t in stages] for s, has in weights.items() if s in names}
    new = {"inputs": inputs, "weights": weights, "stages": stages}
    save_file(tensors, file, described | {key: json.dumps(value) for key, value in new.items()})
    return {
        "inputs": len(inputs),
        "sites": len(weights),
        "stages": stages,
        "bytes": file.stat().st_size,
        "kept": "first, middle and last block; first and last stage; half precision",
    }


def smaller(name: str, values: np.ndarray) -> np.ndarray:
    """Statistics in float16, counts in the smallest integers that hold them, surfaces with half the channels."""
    field = name.rpartition("/")[2]
    if field == "surface":  # [F, T, C]
        return np.maximum.reduceat(values, np.arange(0, values.shape[-1], 2), axis=-1)
    if field == "surface_factors":
        return values * np.array([1, 2], values.dtype)
    if field in HALVED and np.abs(values).max(initial=0) < np.finfo(np.float16).max:
        return values.astype(np.float16)
    if field == "histogram" and values.max(initial=0) <= np.iinfo(np.uint16).max:
        return values.astype(np.uint16)
    return values


def main() -> int:
    """Record, or say what stands in the way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=TARGET, help="folder of the recorded study")
    out = parser.parse_args().out
    try:
        size = record(out, COMPARISON, CAPTURE, PROBES)
    except DQVizError as error:
        print(f"recorded: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
