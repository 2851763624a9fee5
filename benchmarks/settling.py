"""Make a finished study one that only tells: recorded evidence, small files, no working state.

What was settled before stays as it is, so that a part of a recorded study can be made anew beside the others.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dqviz.files import dump, read_json, write_json, write_text
from dqviz.study import Study
from dqviz.study_folder import DATABASE, MANIFEST, REPORT
from dqviz.sweep_log import read_table, write_table

HALVED = {"minimum", "maximum", "mean", "second_moment", "mean_abs", "row_absmax", "rows", "in_absmax", "out_absmax"}  # fmt: skip
SETTLED = "recorded"  # evidence of what is settled
DIGITS = 5  # significant ones, of tables and drifts
PAGE = 1024  # bytes of a page of the database: rows are small


def settle(folder: Path, made: Mapping[str, Any]) -> None:
    """Settle what is not settled yet.

    Args:
        folder: of the study.
        made: device, date, versions and command; the manifest of a study that is new says so.
    """
    study = Study.open(folder)
    for file in (*folder.glob("seen*"), folder / REPORT, folder / f"{MANIFEST}.lock"):
        file.unlink(missing_ok=True)
    for picture in folder.glob("images/*/*.png"):
        _packed(picture)
    for drift in folder.glob("drift/*.json"):
        write_text(drift, dump(rounded(read_json(drift))) + "\n")
    more: dict[str, dict[int, dict[str, Any]]] = {
        "captures": {r["id"]: reduce_capture(folder / r["file"]) for r in _new(study.captures())},
        "sensitivities": {r["id"]: reduce_table(folder, r) for r in _new(study.sensitivities())},
    }
    for row in folder.glob("captures/*"):
        if row.suffix != ".safetensors":
            shutil.rmtree(row) if row.is_dir() else row.unlink()
    for left in folder.glob("sensitivity/.*"):
        left.unlink()
    _settle_database(folder / DATABASE, made, more)
    write_json(folder / MANIFEST, {**study.manifest, SETTLED: study.manifest.get(SETTLED, made)})


def _new(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are not settled."""
    return [row for row in rows if row["record"].get("evidence") != SETTLED]


def recorded_run(run: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record, with what it was in place of what it would claim to be."""
    was = str(run["evidence"])
    why = f"recorded on {made['device']}, {made['date']}; it was {was}: {run.get('backend_why') or run['backend']}"
    return {**run, "evidence": SETTLED, "recorded_as": was, "backend_why": why, "seconds_per_sample": None, "device": made["device"]}  # fmt: skip


def recorded_plan(said: Mapping[str, Any], made: Mapping[str, Any], study: str) -> dict[str, Any]:
    """What is said of a plan under budgets: what was drawn is recorded, and no time or path of here is left."""
    words = shlex.split(said["command"])
    words[words.index("--study") + 1] = f"studies/{study}"
    found = {**rounded(said), "seconds": None, "evidence": SETTLED, "command": shlex.join(words)}
    for name in ("verified", "refined"):
        if said[name] is not None:
            was = {"evidence": SETTLED, "recorded_as": said[name]["evidence"]}
            found[name] = {**found[name], **was, "device": made["device"]}
    return found


def _settle_database(
    file: Path, made: Mapping[str, Any], more: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> None:
    """Rewrite the records, and leave one file without a log beside it."""
    untold = dict.fromkeys(("seconds", "overhead_ratio", "peak_bytes", "predicted"))
    db = sqlite3.connect(file, isolation_level=None)
    for table in ("runs", "captures", "probes", "sensitivities", "allocations"):
        for number, text in db.execute(f"SELECT id, record FROM {table}").fetchall():
            was = json.loads(text)
            if was.get("evidence") == SETTLED:
                continue
            if table == "runs":
                said = recorded_run(was, made)
            elif table == "allocations":
                said = recorded_plan(was, made, file.parent.name)
            else:
                said = {**was, **{k: v for k, v in untold.items() if k in was}, **more.get(table, {}).get(number, {})}  # fmt: skip
                said |= {"evidence": SETTLED, "device": made["device"]}
                said |= {} if table == "captures" else {"recorded_as": was["evidence"]}
                said |= {"date": made["date"]} if table == "sensitivities" else {}
            db.execute(f"UPDATE {table} SET record = ? WHERE id = ?", (dump(said), number))
    for number, text in db.execute("SELECT id, record FROM calibrations").fetchall():
        calibration = dump(rounded(json.loads(text)))
        db.execute("UPDATE calibrations SET record = ? WHERE id = ?", (calibration, number))
    db.execute("DELETE FROM metrics WHERE key = 'seconds_per_sample'")
    db.execute("DELETE FROM plan_losses")  # calibrations and allocations have what is shown of them
    forget_plans(db)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute(f"PRAGMA page_size={PAGE}")
    db.execute("VACUUM")
    db.close()


def forget_plans(db: sqlite3.Connection) -> None:
    """Remove plans that nothing names."""
    named = "SELECT plan FROM runs WHERE plan IS NOT NULL UNION SELECT plan FROM allocations UNION SELECT plan FROM plan_losses"
    db.execute(f"DELETE FROM plans WHERE fingerprint NOT IN ({named})")


def rounded(data: Any) -> Any:
    """JSON whose numbers have `DIGITS` significant digits; whole ones stay as they are."""
    if isinstance(data, Mapping):
        return {key: rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [rounded(value) for value in data]
    return float(f"{data:.{DIGITS}g}") if isinstance(data, float) else data


def reduce_table(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the cells that plans are made of: weights in all steps, inputs in windows.

    Returns what the table then holds.
    """

    def plans_read(line: Mapping[str, Any]) -> bool:
        weight = line["operand"] == "weight"
        return weight == (line.get("window") is None) or row["record"]["windows"] == 1

    file = folder / row["file"]
    lines = [rounded(line) for line in read_table(file) if plans_read(line)]
    write_table(file, [{**line, "evidence": SETTLED} for line in lines])
    floors = row["record"]["noise_floor"]
    several = row["record"]["windows"] > 1
    kept = [f for f in floors if not several or f["whole"] == (f["operand"] == "weight")]
    return {
        "cells": len({(n["site"], n["operand"], n["window"], str(n["bits"])) for n in lines}),
        "rows": len(lines),
        "noise_floor": rounded(kept),
        "noise": rounded(row["record"]["noise"]),
        "kept": "weights in all steps, inputs in windows; five significant digits",
    }


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
    """Statistics in float16, counts in the smallest integers that hold them, surfaces with half the tokens and channels."""
    field = name.rpartition("/")[2]
    if field == "surface":  # [F, T, C]
        for axis in (1, 2):
            values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], 2), axis=axis)
        return values
    if field == "surface_factors":
        return values * np.array([2, 2], values.dtype)
    if field in HALVED and np.abs(values).max(initial=0) < np.finfo(np.float16).max:
        return values.astype(np.float16)
    if field == "histogram" and values.max(initial=0) <= np.iinfo(np.uint16).max:
        return values.astype(np.uint16)
    return values
