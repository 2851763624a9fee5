"""The tables of a study, as a list of named steps; `study.sqlite` remembers which were applied.

A step is never edited once released: a change of the tables is a new step at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence


def m001_comparisons(db: sqlite3.Connection) -> None:
    """One row per call of compare: what was asked for, and how it ended."""
    db.execute(
        """CREATE TABLE comparisons (
            id INTEGER PRIMARY KEY,
            created TEXT NOT NULL,
            status TEXT NOT NULL,  -- running, done, cancelled, failed
            request TEXT NOT NULL,  -- JSON
            pairs TEXT NOT NULL DEFAULT '[]',
            ladder TEXT NOT NULL DEFAULT '[]',
            notes TEXT NOT NULL DEFAULT '{}'
        )"""
    )


def m002_plans(db: sqlite3.Connection) -> None:
    """Plans by fingerprint: many runs may share one."""
    db.execute("CREATE TABLE plans (fingerprint TEXT PRIMARY KEY, plan TEXT NOT NULL)")


def m003_runs(db: sqlite3.Connection) -> None:
    """Finished runs; `record` is the JSON of the run as compare reports it."""
    db.execute(
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY,
            comparison INTEGER NOT NULL REFERENCES comparisons(id),
            name TEXT NOT NULL UNIQUE,
            method TEXT NOT NULL,
            bits TEXT,
            plan TEXT REFERENCES plans(fingerprint),
            recipe TEXT NOT NULL,
            record TEXT NOT NULL,
            created TEXT NOT NULL
        )"""
    )


def m004_metrics(db: sqlite3.Connection) -> None:
    """Numbers of a run, one per row; `seed` is NULL for those that speak of all samples."""
    db.execute(
        """CREATE TABLE metrics (
            run INTEGER NOT NULL REFERENCES runs(id),
            key TEXT NOT NULL,
            seed INTEGER,
            value REAL
        )"""
    )
    db.execute("CREATE INDEX metrics_by_key ON metrics (run, key)")


def m005_resume(db: sqlite3.Connection) -> None:
    """What makes a comparison resumable: the key of its job, and the names that its runs will have."""
    db.execute("ALTER TABLE comparisons ADD COLUMN key TEXT")
    db.execute("ALTER TABLE comparisons ADD COLUMN names TEXT NOT NULL DEFAULT '[]'")
    db.execute("CREATE UNIQUE INDEX comparisons_by_key ON comparisons (key)")


def m006_captures(db: sqlite3.Connection) -> None:
    """Finished captures; `file` is relative to the study, `record` is what capture reports."""
    db.execute(
        """CREATE TABLE captures (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            created TEXT NOT NULL,
            method TEXT,
            bits TEXT,
            file TEXT NOT NULL,
            manifest TEXT NOT NULL,
            record TEXT NOT NULL DEFAULT '{}'
        )"""
    )


def m007_probes(db: sqlite3.Connection) -> None:
    """Finished probes of a method; `file` is JSON, relative to the study, `record` is what is said of it."""
    db.execute(
        """CREATE TABLE probes (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            created TEXT NOT NULL,
            probe TEXT NOT NULL,
            method TEXT NOT NULL,
            bits TEXT NOT NULL,
            file TEXT NOT NULL,
            manifest TEXT NOT NULL,
            record TEXT NOT NULL
        )"""
    )


def m008_learnings(db: sqlite3.Connection) -> None:
    """Logs of methods that learn, from their first step on; `file` is JSON lines, relative to the study."""
    db.execute(
        """CREATE TABLE learnings (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            created TEXT NOT NULL,
            method TEXT NOT NULL,
            bits TEXT NOT NULL,
            file TEXT NOT NULL,
            manifest TEXT NOT NULL,
            record TEXT NOT NULL
        )"""
    )


def m009_sensitivities(db: sqlite3.Connection) -> None:
    """Sweeps from their first cell on; `file` is JSON lines, relative to the study: cells, or the finished table."""
    db.execute(
        """CREATE TABLE sensitivities (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            key TEXT NOT NULL UNIQUE,  -- fingerprint of the manifest
            created TEXT NOT NULL,
            status TEXT NOT NULL,  -- running, done
            tier TEXT NOT NULL,
            method TEXT NOT NULL,
            file TEXT NOT NULL,
            manifest TEXT NOT NULL,
            record TEXT NOT NULL DEFAULT '{}'
        )"""
    )


def m010_allocations(db: sqlite3.Connection) -> None:
    """What plans lost when they were drawn, what predictions were held against, and the plans that were chosen."""
    db.execute(
        """CREATE TABLE plan_losses (
            key TEXT PRIMARY KEY,  -- fingerprint of plan, method, samples and sampler
            plan TEXT NOT NULL REFERENCES plans(fingerprint),
            created TEXT NOT NULL,
            record TEXT NOT NULL  -- loss of every sample
        )"""
    )
    db.execute(
        """CREATE TABLE calibrations (
            id INTEGER PRIMARY KEY,
            sensitivity TEXT NOT NULL,  -- key of its sweep
            metric TEXT NOT NULL,
            created TEXT NOT NULL,
            record TEXT NOT NULL
        )"""
    )
    db.execute(
        """CREATE TABLE allocations (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            key TEXT NOT NULL UNIQUE,  -- fingerprint of what was asked for
            created TEXT NOT NULL,
            sensitivity TEXT NOT NULL,
            plan TEXT NOT NULL REFERENCES plans(fingerprint),
            record TEXT NOT NULL
        )"""
    )


Step = Callable[[sqlite3.Connection], None]
ALL: tuple[Step, ...] = (
    m001_comparisons,
    m002_plans,
    m003_runs,
    m004_metrics,
    m005_resume,
    m006_captures,
    m007_probes,
    m008_learnings,
    m009_sensitivities,
    m010_allocations,
)


def names(steps: Sequence[Step] = ALL) -> list[str]:
    """Names of the steps, in order."""
    return [step.__name__ for step in steps]


def apply(db: sqlite3.Connection, steps: Sequence[Step] = ALL) -> list[str]:
    """Apply the steps that `db` lacks, in one transaction; returns their names."""
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY)")
        known = {row[0] for row in db.execute("SELECT name FROM migrations")}
        missing = [step for step in steps if step.__name__ not in known]
        for step in missing:
            step(db)
            db.execute("INSERT INTO migrations VALUES (?)", (step.__name__,))
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return [step.__name__ for step in missing]
