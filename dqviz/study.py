"""A study: one folder that holds what comparisons of one model made, and that opens anywhere.

    study.json       format number, model, recipe of the latest comparison, versions
    study.sqlite     comparisons, runs, plans, metrics (write-ahead log; migrations in migrations.py)
    images/RUN/SEED.png (animated for clips), drift/RUN.json, captures/NAME.safetensors, probes/NAME.json, learning/NAME.jsonl
    seen*.safetensors, report.html

Reading needs neither torch nor a network. Nothing is ever written over: a further comparison adds
runs under names of their own. Files appear under their names only when they are complete.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quant.errors import BadInput, EnvironmentFault, unknown
from quant.schema import fingerprint

from . import clips, migrations
from .allocations import Allocations
from .database import transaction
from .files import dump, faults, now, read_json, write_json
from .measurements import slug
from .study_folder import DATABASE, FORMAT, KIND, MANIFEST, check_folder, is_recorded, read_manifest


@dataclass(frozen=True)
class NewRun:
    """A finished run, ready to be stored."""

    name: str  # also its folder's name; see `Study.free_name`
    record: Mapping[str, Any]  # JSON as compare reports it
    recipe: Mapping[str, Any]
    seeds: Sequence[int]
    images: Any  # uint8 array of pictures [n, h, w, 3] or clips [n, f, h, w, 3], one per seed
    plan: tuple[str, Mapping[str, Any]] | None = None  # fingerprint and JSON
    drift: Mapping[str, Any] | None = None  # error along the trajectory, JSON
    per_sample: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


class Study(Allocations):
    """An open study folder; every method opens the database for itself, so threads may share one."""

    def __init__(self, folder: Path, manifest: dict[str, Any], read_only: bool = False) -> None:
        self.folder = folder
        self.manifest = manifest
        self.read_only = read_only

    @classmethod
    def create(
        cls, folder: Path | str, model: Mapping[str, Any], versions: Mapping[str, str]
    ) -> Study:
        """Make a new study of `model` (a description with `key` and `fingerprint`)."""
        folder = Path(folder)
        if check_folder(folder):
            raise BadInput(f"folder {folder} is a study already; open it, or name a new folder")
        manifest = {
            "kind": KIND,
            "format": FORMAT,
            "created": now(),
            "model": dict(model),
            "versions": dict(versions),
            "recipe": None,
        }
        with faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MANIFEST, manifest)
        study = cls(folder, manifest)
        with study._database():
            pass
        return study

    @classmethod
    def open(cls, folder: Path | str, read_only: bool = False) -> Study:
        """Open an existing study; reading works on a read-only disk too."""
        folder = Path(folder)
        if not folder.is_dir():
            raise BadInput(
                f"there is no study folder {folder}; make one: dqviz compare ... --out {folder}"
            )
        if not (folder / MANIFEST).is_file():
            raise BadInput(
                f"folder {folder} is not a study (no {MANIFEST}); name a folder that dqviz compare wrote"
            )
        database = folder / DATABASE
        if (
            not database.is_file() or not database.stat().st_size
        ):  # made with the study, never later
            raise BadInput(
                f"study {folder}: {DATABASE} is missing or empty; restore it, or start a new study folder"
            )
        fixed = is_recorded(folder) or not os.access(folder, os.W_OK)
        study = cls(folder, read_manifest(folder), read_only or fixed)
        with study._database():
            pass
        return study

    @classmethod
    def open_or_create(
        cls, folder: Path | str, model: Mapping[str, Any], versions: Mapping[str, str]
    ) -> Study:
        """The study in `folder`, made if absent; one of another model is bad input."""
        folder = Path(folder)
        if not check_folder(folder):
            return cls.create(folder, model, versions)
        study = cls.open(folder)
        for key in ("fingerprint", "weights"):
            theirs, ours = study.manifest["model"].get(key), model.get(key)
            if theirs != ours:
                held = study.manifest["model"]
                what, this = f"model {held.get('key')}", str(model.get("key"))
                if held.get("outliers") != model.get("outliers"):
                    what, this = str(held.get("title")), str(model.get("title"))
                elif held.get("key") == model.get("key"):
                    what = f"other weights of {held.get('key')}"
                raise BadInput(
                    f"study {folder} is of {what}, not of this {this}; name another folder"
                )
        return study

    def begin(
        self,
        request: Mapping[str, Any],
        recipe: Mapping[str, Any],
        names: Sequence[str] = (),
        key: str | None = None,
    ) -> int:
        """Start a comparison; returns its number.

        Args:
            request: what was asked for.
            recipe: what makes it again.
            names: of the runs to come, in order.
            key: by which `resumable` finds it again.
        """
        self._check_writable()
        self.manifest = {**self.manifest, "recipe": dict(recipe), "updated": now()}
        write_json(self.folder / MANIFEST, self.manifest)
        with self._database() as db:
            cursor = db.execute(
                "INSERT INTO comparisons (created, status, request, names, key)"
                " VALUES (?, 'running', ?, ?, ?)",
                (now(), dump(request), dump(list(names)), key),
            )
            return int(cursor.lastrowid or 0)

    def comparison_of(self, key: str) -> int | None:
        """The number of the comparison that was begun with this key; None when there is none."""
        with self._database() as db:
            row = db.execute("SELECT id FROM comparisons WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row["id"])

    def resume(self, comparison: int) -> list[str]:
        """Continue a comparison that was stopped; returns the names that its runs have, in order.

        Pictures of a run that was not stored to its end are removed.
        """
        self._check_writable()
        with self._database() as db:
            row = db.execute("SELECT names FROM comparisons WHERE id = ?", (comparison,)).fetchone()
            db.execute("UPDATE comparisons SET status = 'running' WHERE id = ?", (comparison,))
            stored = {run["name"] for run in db.execute("SELECT name FROM runs")}
        names: list[str] = json.loads(row["names"])
        for name in names:
            if name not in stored:
                shutil.rmtree(self.folder / "images" / name, ignore_errors=True)
        return names

    def free_name(self, wanted: str, taken: Sequence[str] = ()) -> str:
        """`wanted` as a safe name that no run of this study and none of `taken` has."""
        base = slug(wanted) or "run"
        with self._database() as db:
            used = {row["name"] for row in db.execute("SELECT name FROM runs")} | set(taken)
        names = [base, *(f"{base}-{i}" for i in range(2, len(used) + 3))]
        return next(n for n in names if n not in used and not (self.folder / "images" / n).exists())

    def add_run(self, comparison: int, run: NewRun) -> dict[str, Any]:
        """Store a finished run, pictures first; returns its record with `files` filled in."""
        self._check_writable()
        files = self._write_images(run)
        record = {**run.record, "files": files}
        clip = clips.describe(run.images)
        if clip is not None:
            record["clip"] = clip
        if run.drift is not None:
            where = self.folder / "drift" / f"{run.name}.json"
            write_json(where, run.drift)
            record["drift"] = f"drift/{where.name}"
        with self._database() as db:
            if run.plan is not None:
                db.execute(
                    "INSERT OR IGNORE INTO plans VALUES (?, ?)", (run.plan[0], dump(run.plan[1]))
                )
            cursor = db.execute(
                "INSERT INTO runs (comparison, name, method, bits, plan, recipe, record, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    comparison,
                    run.name,
                    record["method"],
                    record["bits"],
                    run.plan[0] if run.plan else None,
                    dump(run.recipe),
                    dump(record),
                    now(),
                ),
            )
            db.executemany(
                "INSERT INTO metrics VALUES (?, ?, ?, ?)",
                [(cursor.lastrowid, *row) for row in _metric_rows(record, run)],
            )
        return record

    def finish(
        self,
        comparison: int,
        status: str,
        pairs: Sequence[Mapping[str, Any]] = (),
        ladder: Sequence[Mapping[str, Any]] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Close a comparison as `done`, `cancelled` or `failed`."""
        with self._database() as db:
            db.execute(
                "UPDATE comparisons SET status = ?, pairs = ?, ladder = ?, notes = ? WHERE id = ?",
                (status, dump(list(pairs)), dump(list(ladder)), dump(notes or {}), comparison),
            )

    def abandon(self, key: str, status: str) -> None:
        """Close the running comparison of that key, if there is one: its worker is gone."""
        with self._database() as db:
            db.execute(
                "UPDATE comparisons SET status = ? WHERE key = ? AND status = 'running'",
                (status, key),
            )

    def comparisons(self) -> list[dict[str, Any]]:
        """Every comparison in order: id, created, status, request, names of its runs."""
        with self._database() as db:
            rows = db.execute("SELECT * FROM comparisons ORDER BY id").fetchall()
            runs = db.execute("SELECT comparison, name FROM runs ORDER BY id").fetchall()
        return [
            {
                "id": row["id"],
                "created": row["created"],
                "status": row["status"],
                "request": json.loads(row["request"]),
                "runs": [run["name"] for run in runs if run["comparison"] == row["id"]],
            }
            for row in rows
        ]

    def runs(self, comparison: int | None = None) -> list[dict[str, Any]]:
        """Records of all runs, or of those of one comparison, in the order they were finished."""
        with self._database() as db:
            rows = db.execute("SELECT comparison, record FROM runs ORDER BY id").fetchall()
        return [
            json.loads(row["record"])
            for row in rows
            if comparison is None or row["comparison"] == comparison
        ]

    def run(self, name: str) -> dict[str, Any]:
        """The record of one run."""
        found = {run["name"]: run for run in self.runs()}
        if name not in found:
            raise unknown("run", name, found, f"Study: {self.folder}")
        return found[name]

    def recipe(self, name: str) -> dict[str, Any]:
        """The recipe that makes a run again."""
        self.run(name)
        with self._database() as db:
            row = db.execute("SELECT recipe FROM runs WHERE name = ?", (name,)).fetchone()
        return json.loads(row["recipe"])

    def plan(self, name: str) -> dict[str, Any] | None:
        """The plan of a run; None where it has none."""
        self.run(name)
        with self._database() as db:
            row = db.execute(
                "SELECT p.plan FROM runs r JOIN plans p ON p.fingerprint = r.plan WHERE r.name = ?",
                (name,),
            ).fetchone()
        return None if row is None else json.loads(row["plan"])

    def images(self, name: str) -> list[Path]:
        """Pictures or clips of a run, in the order of its samples."""
        return [self.folder / file for file in self.run(name)["files"]]

    def drift(self, name: str) -> dict[str, Any] | None:
        """Error along the trajectory of a run; None where it was not measured."""
        file = self.run(name).get("drift")
        return None if file is None else read_json(self.folder / file)

    def metric(self, name: str, key: str) -> dict[int, float | None]:
        """One metric of one run, by seed."""
        with self._database() as db:
            rows = db.execute(
                "SELECT m.seed, m.value FROM metrics m JOIN runs r ON r.id = m.run"
                " WHERE r.name = ? AND m.key = ? AND m.seed IS NOT NULL ORDER BY m.rowid",
                (name, key),
            ).fetchall()
        return {row["seed"]: row["value"] for row in rows}

    def result(self, comparison: int | None = None) -> dict[str, Any]:
        """What compare returned: of the latest comparison that has runs, or of the one named."""
        listed = self.comparisons()
        if comparison is None:
            with_runs = [c["id"] for c in listed if c["runs"]]
            if not with_runs:
                raise BadInput(f"study {self.folder} holds no finished run yet")
            comparison = with_runs[-1]
        with self._database() as db:
            row = db.execute("SELECT * FROM comparisons WHERE id = ?", (comparison,)).fetchone()
        if row is None:
            raise unknown("comparison", comparison, [str(c["id"]) for c in listed])
        return {
            "study": str(self.folder),
            "comparison": comparison,
            "status": row["status"],
            "created": row["created"],
            "model": self.manifest["model"],
            "versions": self.manifest["versions"],
            "request": json.loads(row["request"]),
            "fingerprint": fingerprint(json.loads(row["request"])),
            "runs": self.runs(comparison),
            "pairs": json.loads(row["pairs"]),
            "ladder": json.loads(row["ladder"]),
            **json.loads(row["notes"]),
        }

    def _write_images(self, run: NewRun) -> list[str]:
        folder = self.folder / "images" / run.name
        partial = folder.with_name(run.name + ".partial")
        with faults(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for seed, image in zip(run.seeds, run.images, strict=True):
                clips.write(partial / f"{seed}.png", image, {"run": run.name, "seed": seed})
            if folder.exists():
                raise EnvironmentFault(f"{folder} appeared meanwhile; another process writes here")
            partial.replace(folder)
        return [f"images/{run.name}/{seed}.png" for seed in run.seeds]

    def _check_writable(self) -> None:
        if self.read_only:
            raise EnvironmentFault(
                f"study {self.folder} is read-only; copy it, or name another folder"
            )

    def _database(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection inside one transaction, with every table in place."""
        path = self.folder / DATABASE
        return transaction(path, f"study {self.folder}", migrations.ALL, self.read_only)


def _metric_rows(
    record: Mapping[str, Any], run: NewRun
) -> list[tuple[str, int | None, float | None]]:
    """(key, seed, value) of every number of a run; means have no seed."""
    rows: list[tuple[str, int | None, float | None]] = []
    for key, value in record.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            rows.append((key, None, value))
        elif isinstance(value, Mapping) and isinstance(value.get("mean"), int | float):
            rows.append((key, None, value["mean"]))
    for key, values in run.per_sample.items():
        rows += [(key, seed, value) for seed, value in zip(run.seeds, values, strict=True)]
    return rows
