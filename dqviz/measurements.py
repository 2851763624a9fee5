"""What a study holds of its model itself: captures of its inputs, probes of methods, sensitivities, logs of what was learned.

    captures/NAME.safetensors     `quant.seen_layout`
    probes/NAME.json              what a probe of `quant.probes` measured
    sensitivity/NAME.jsonl        what rounding single layers costs, `quant.sensitivity.table`;
                                  NAME.blueprint.json: what plans need to know of the model
    learning/NAME.jsonl           losses and measures of a method that learns, `quant.learning`
    learning/NAME.safetensors     its state, for as long as it is unfinished

A row of the study's database names each file, what it was made from, and what is said of it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import BadInput, unknown
from quant.sensitivity.table import flat

from .files import dump, faults, now, read_json, write_text
from .sweep_log import FOLDER, read_cells, read_table, unfinished, write_table

if TYPE_CHECKING:
    from .seen_file import SeenFile

CAPTURES = "captures"
PROBES = "probes"
LEARNING = "learning"


def slug(text: str) -> str:
    """A name that is safe as a file name everywhere: letters, digits, dots, dashes, underscores."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")[:80]


class Measurements(ABC):
    """Captures, probes, sensitivities and learnings of one study."""

    folder: Path

    @abstractmethod
    def _database(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection inside one transaction, with every table in place."""

    @abstractmethod
    def _check_writable(self) -> None:
        """Stop where nothing may be written."""

    def captures(self) -> list[dict[str, Any]]:
        """Every capture in order: id, name, created, method, bits, file, manifest, record."""
        return self._described("captures")

    def capture(self, name: str) -> SeenFile:
        """The statistics of one capture, read lazily."""
        from .seen_file import SeenFile

        found = {row["name"]: row for row in self.captures()}
        if name not in found:
            raise unknown("capture", name, found, f"Study: {self.folder}")
        return SeenFile(self.folder / found[name]["file"])

    def add_capture(
        self,
        wanted: str,
        finished: Path,
        manifest: Mapping[str, Any],
        *,
        method: str | None = None,
        bits: str | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> str:
        """Move a finished file into the study, under `wanted` or the next free name, which is returned."""
        base = slug(wanted) or "capture"
        folder = self.folder / CAPTURES
        with faults(folder), self._database() as db:
            folder.mkdir(exist_ok=True)
            name = free_row(db, "captures", base)
            file = f"{CAPTURES}/{name}.safetensors"
            db.execute(
                "INSERT INTO captures (name, created, method, bits, file, manifest, record)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, now(), method, bits, file, dump(manifest), dump(record or {})),
            )
            # Before the commit: a crash in between leaves a file that no row names, and the next
            # capture of this name takes its place.
            finished.replace(self.folder / file)
        return name

    def probes(self) -> list[dict[str, Any]]:
        """Every probe in order: id, name, created, probe, method, bits, file, manifest, record."""
        return self._described("probes")

    def probe(self, name: str) -> dict[str, Any]:
        """What one probe measured."""
        found = {row["name"]: row for row in self.probes()}
        if name not in found:
            raise unknown("probe", name, found, f"Study: {self.folder}")
        file = (self.folder / found[name]["file"]).resolve()
        if not file.is_relative_to(self.folder.resolve()):
            raise BadInput(f"study {self.folder}: probe {name} lies outside; probe again")
        return read_json(file)

    def add_probe(
        self,
        wanted: str,
        measured: Mapping[str, Any],
        manifest: Mapping[str, Any],
        *,
        probe: str,
        method: str,
        bits: str,
        record: Mapping[str, Any],
    ) -> str:
        """Keep what a probe measured, under `wanted` or the next free name, which is returned."""
        self._check_writable()
        with self._database() as db:
            name = free_row(db, "probes", slug(wanted) or "probe")
            file = f"{PROBES}/{name}.json"
            write_text(self.folder / file, dump(measured) + "\n")
            db.execute(
                "INSERT INTO probes (name, created, probe, method, bits, file, manifest, record)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (name, now(), probe, method, bits, file, dump(manifest), dump(record)),
            )
        return name

    def sensitivities(self) -> list[dict[str, Any]]:
        """Every sweep in order, begun or done: id, name, key, created, status, tier, method, file, manifest, record."""
        return self._described("sensitivities")

    def sensitivity(self, name: str) -> list[dict[str, Any]]:
        """The table of one sweep, a row for each cell and metric; of one that is not done as far as it is."""
        found = {row["name"]: row for row in self.sensitivities()}
        if name not in found:
            raise unknown("sensitivity", name, found, f"Study: {self.folder}")
        row = found[name]
        file = self._of_sweep(row)
        if row["status"] == "done":
            return read_table(file)
        return flat(read_cells(file), row["record"]["groups"], row["record"]["evidence"])

    def blueprint(self, name: str) -> dict[str, Any]:
        """What `quant.blueprint` says of the model of a finished sweep."""
        found = {row["name"]: row for row in self.sensitivities() if row["status"] == "done"}
        if name not in found:
            raise unknown("finished sensitivity", name, found, f"Study: {self.folder}")
        return read_json(self._of_sweep(found[name]).with_suffix(".blueprint.json"))

    def _of_sweep(self, row: Mapping[str, Any]) -> Path:
        """The file of a sweep; BadInput for one outside of the study."""
        file = (self.folder / row["file"]).resolve()
        if not file.is_relative_to(self.folder.resolve()):
            raise BadInput(
                f"study {self.folder}: sensitivity {row['name']} lies outside; sweep again"
            )
        return file

    def begin_sensitivity(
        self,
        wanted: str,
        key: str,
        manifest: Mapping[str, Any],
        *,
        tier: str,
        method: str,
        record: Mapping[str, Any],
    ) -> str:
        """List a sweep that begins, or goes on; returns its name: `wanted`, or the next free one.

        Args:
            wanted: of a new one.
            key: fingerprint of the manifest; one that was begun with it goes on.
            manifest: what the table is made from.
            tier: of the sweep.
            method: that rounds.
            record: what is said of it; `groups` by site and `evidence` say what its rows are.
        """
        self._check_writable()
        with self._database() as db:
            held = db.execute("SELECT name FROM sensitivities WHERE key = ?", (key,)).fetchone()
            if held is not None:
                db.execute(
                    "UPDATE sensitivities SET status = 'running', file = ? WHERE key = ?",
                    (unfinished(key), key),
                )
                return str(held["name"])
            name = free_row(db, "sensitivities", slug(wanted) or "sensitivity")
            db.execute(
                "INSERT INTO sensitivities (name, key, created, status, tier, method, file, manifest, record)"
                " VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?)",
                (name, key, now(), tier, method, unfinished(key), dump(manifest), dump(record)),
            )
        return name

    def end_sensitivity(
        self,
        name: str,
        table: Sequence[Mapping[str, Any]],
        blueprint: Mapping[str, Any],
        record: Mapping[str, Any],
    ) -> str:
        """Put a finished table in the place of its cells, with what plans need to know beside it; returns its file."""
        self._check_writable()
        file = f"{FOLDER}/{name}.jsonl"
        write_table(self.folder / file, table)
        write_text(self.folder / FOLDER / f"{name}.blueprint.json", dump(blueprint) + "\n")
        with self._database() as db:
            row = db.execute("SELECT key FROM sensitivities WHERE name = ?", (name,)).fetchone()
            db.execute(
                "UPDATE sensitivities SET status = 'done', file = ?, record = ? WHERE name = ?",
                (file, dump(record), name),
            )
        # After the commit: a crash before it leaves the cells, and the next attempt ends with the same table.
        (self.folder / unfinished(row["key"])).unlink(missing_ok=True)
        return file

    def learnings(self) -> list[dict[str, Any]]:
        """Every learning in order, begun or done: id, name, created, method, bits, file, manifest, record."""
        return self._described("learnings")

    def learning(self, name: str) -> list[dict[str, Any]]:
        """The log of one learning, line by line, as far as it is written (`quant.learning`)."""
        from quant.learning_log import read_log

        found = {row["name"]: row for row in self.learnings()}
        if name not in found:
            raise unknown("learning", name, found, f"Study: {self.folder}")
        file = (self.folder / found[name]["file"]).resolve()
        if not file.is_relative_to(self.folder.resolve()):
            raise BadInput(f"study {self.folder}: the log of {name} lies outside; learn again")
        return read_log(file)

    def begin_learning(
        self,
        name: str,
        manifest: Mapping[str, Any],
        *,
        method: str,
        bits: str,
        record: Mapping[str, Any],
    ) -> None:
        """List a learning that begins, or goes on; one of the same name that was never stored gives way."""
        self._check_writable()
        with self._database() as db:
            db.execute("DELETE FROM learnings WHERE name = ?", (name,))
            db.execute(
                "INSERT INTO learnings (name, created, method, bits, file, manifest, record)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    now(),
                    method,
                    bits,
                    f"{LEARNING}/{name}.jsonl",
                    dump(manifest),
                    dump(record),
                ),
            )

    def _described(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table that has a manifest and a record; none where a study lacks the table."""
        with self._database() as db:
            rows = db.execute(
                f"SELECT * FROM {table} ORDER BY id" if has_table(db, table) else "SELECT 1 LIMIT 0"
            ).fetchall()
        parsed = ("manifest", "record")
        return [{**dict(row), **{k: json.loads(row[k]) for k in parsed}} for row in rows]


def has_table(db: sqlite3.Connection, table: str) -> bool:
    """Whether a table is there: a read-only study of an earlier version lacks later ones."""
    sought = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(sought, (table,)).fetchone() is not None


def free_row(db: sqlite3.Connection, table: str, base: str) -> str:
    """`base`, or the first of base-2, base-3, .. that no row of a table has as its name."""
    used = {row["name"] for row in db.execute(f"SELECT name FROM {table}")}
    names = [base, *(f"{base}-{i}" for i in range(2, len(used) + 3))]
    return next(name for name in names if name not in used)
