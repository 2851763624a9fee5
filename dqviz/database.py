"""SQLite files of ours: write-ahead log, migrations, one transaction per use, errors in one line.

Studies and the job list are such files. Every use opens its own connection, so that threads and
processes may share a file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quant.errors import BadInput, EnvironmentFault

from . import migrations

LOCK_SECONDS = 10.0


@contextmanager
def transaction(
    path: Path,
    what: str,
    steps: Sequence[migrations.Step],
    read_only: bool = False,
) -> Iterator[sqlite3.Connection]:
    """A connection inside one transaction, with every table in place.

    Args:
        path: the file; made when it is absent, unless `read_only`.
        what: what people call it, e.g. `study DIR`.
        steps: migrations that it should have.
        read_only: works on a read-only disk too, and applies no migration.

    Raises BadInput for a file that is no database of ours or that a newer version wrote,
    EnvironmentFault for one that is locked, or cannot be written.
    """
    try:
        db = _connect(path, what, steps, read_only)
    except sqlite3.Error as error:
        raise _fault(path, what, error) from None
    try:
        db.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    except sqlite3.Error as error:
        raise _fault(path, what, error) from None
    finally:
        db.close()


def _connect(
    path: Path, what: str, steps: Sequence[migrations.Step], read_only: bool
) -> sqlite3.Connection:
    if read_only:
        if not path.is_file():
            raise BadInput(f"{what}: {path.name} is missing; restore it")
        db = _open_to_read(path)
    else:
        db = _open(f"{path.resolve().as_uri()}?mode=rwc")
    try:
        if not read_only and db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            db.execute("PRAGMA journal_mode=WAL")
        applied = _applied(db)
        newer = sorted(set(applied) - set(migrations.names(steps)))
        if newer:
            raise BadInput(
                f"{what} was written by a newer version (it has {newer[0]}); update dqviz"
            )
        if len(applied) < len(steps) and not read_only:
            migrations.apply(db, steps)
    except BaseException:
        db.close()
        raise
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Where one may write, as a writer who writes nothing: only that one sees what others write."""
    uri = path.resolve().as_uri()
    if all(os.access(place, os.W_OK) for place in (path, path.parent)):
        db = _open(f"{uri}?mode=rw")
        db.execute("PRAGMA query_only=ON")
        return db
    log = path.with_name(path.name + "-wal")
    settled = not log.exists() or log.stat().st_size == 0
    return _open(f"{uri}?mode=ro" + ("&immutable=1" if settled else ""))


def _applied(db: sqlite3.Connection) -> list[str]:
    has_table = db.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'"
    ).fetchone()
    return [row["name"] for row in db.execute("SELECT name FROM migrations")] if has_table else []


def _open(uri: str) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def _fault(path: Path, what: str, error: sqlite3.Error) -> BadInput | EnvironmentFault:
    text = str(error)
    if "locked" in text or "busy" in text:
        return EnvironmentFault(f"{path} is locked by another process; wait for it, or stop it")
    if "full" in text or "disk I/O" in text:
        return EnvironmentFault(f"{path} cannot be written ({text}); free some disk space")
    if "readonly" in text or "unable to open" in text:
        return EnvironmentFault(f"{path} cannot be opened for writing ({text}); check permissions")
    return BadInput(
        f"{path} is not a readable {what.split()[0]} database ({text}); restore it, or move it away"
    )
