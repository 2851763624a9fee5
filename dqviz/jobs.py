"""Jobs: long work as a list on disk, which any process may add to, watch, or take work from.

    $DQVIZ_HOME/jobs.sqlite              the list (write-ahead log)
    $DQVIZ_HOME/jobs/ID/worker.log       what the worker said, tracebacks included
    $DQVIZ_HOME/jobs/ID/preview-N.json   the latest pictures of the batch whose first seed is N

    queued -> running -> done | failed | cancelled;  failed, cancelled -> queued again by `resume`

One job runs at a time: device and memory are one. A job whose process died goes back to the head of
the queue, up to `MOST_ATTEMPTS` times. What a job makes is in its study, never here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import BadInput, DQVizError, unknown

from . import processes
from .database import transaction
from .files import dump, faults, now, write_text
from .study import Study
from .study_folder import studies_root

DATABASE = "jobs.sqlite"
LOG = "worker.log"
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ACTIVE = (QUEUED, RUNNING)
MOST_ATTEMPTS = 3
PATIENCE = 2.0  # seconds that a worker has to heed a cancellation before it is killed
_LOG_BYTES = 1 << 18  # of the end of a log, at most


def m001_jobs(db: sqlite3.Connection) -> None:
    """One row per job; `place` orders the queue, `pid` and `born` name the process that runs it."""
    db.execute(
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            title TEXT NOT NULL,
            request TEXT NOT NULL,  -- JSON
            study TEXT NOT NULL,  -- folder
            state TEXT NOT NULL,
            place INTEGER NOT NULL,
            created TEXT NOT NULL,
            started TEXT,
            ended TEXT,
            pid INTEGER,
            born TEXT,
            killable INTEGER NOT NULL DEFAULT 0,
            heartbeat REAL,  -- Unix time
            stage TEXT NOT NULL DEFAULT '',
            done INTEGER NOT NULL DEFAULT 0,
            total INTEGER NOT NULL DEFAULT 0,
            seconds_left REAL,
            finished INTEGER NOT NULL DEFAULT 0,
            cancel_requested REAL,  -- Unix time
            message TEXT NOT NULL DEFAULT '',
            attempts INTEGER NOT NULL DEFAULT 0
        )"""
    )
    db.execute("CREATE INDEX jobs_by_state ON jobs (state, place)")


def m002_made(db: sqlite3.Connection) -> None:
    """What a job has made in its study."""
    db.execute("ALTER TABLE jobs ADD COLUMN made TEXT NOT NULL DEFAULT ''")


STEPS = (m001_jobs, m002_made)


@dataclass(frozen=True)
class Job:
    """One row of the list."""

    number: int
    id: str
    kind: str  # a key of `dqviz.work.KINDS`
    title: str
    request: Mapping[str, Any]
    study: Path
    state: str
    place: int
    created: str
    started: str | None
    ended: str | None
    pid: int | None
    born: str | None
    killable: bool  # whether its process does nothing else
    heartbeat: float | None
    stage: str
    done: int
    total: int
    seconds_left: float | None
    finished: int  # runs, or other parts that are complete
    cancel_requested: float | None
    message: str  # one line: why it ended
    attempts: int
    made: str = ""  # name in its study of what it made, where its kind says one

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE

    @classmethod
    def of_row(cls, row: sqlite3.Row) -> Job:
        """From the database."""
        fields = dict(row)
        fields["request"] = json.loads(fields["request"])
        fields["study"] = Path(fields["study"])
        fields["killable"] = bool(fields["killable"])
        return cls(**fields)


class JobStore:
    """The list of jobs; every method opens the file for itself, so threads and processes share it."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """Folder of the list: beside the studies."""
        return self._root or studies_root().parent

    def folder(self, job: Job) -> Path:
        """Where a job's log and previews are."""
        return self.root / "jobs" / job.id

    # -- for people

    def submit(self, kind: str, request: Mapping[str, Any]) -> Job:
        """Put a job at the end of the queue; BadInput for a request that cannot be carried out."""
        from .work import KINDS

        if kind not in KINDS:
            raise unknown("kind of job", kind, KINDS)
        title, study = KINDS[kind].describe(request)
        with faults(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with self._database() as db:
            cursor = db.execute(
                "INSERT INTO jobs (id, kind, title, request, study, state, place, created)"
                f" VALUES (?, ?, ?, ?, ?, ?, {_LAST}, ?)",
                (
                    secrets.token_hex(6),
                    kind,
                    title,
                    dump(request),
                    str(study.absolute()),
                    QUEUED,
                    now(),
                ),
            )
            row = db.execute("SELECT * FROM jobs WHERE number = ?", (cursor.lastrowid,)).fetchone()
        return Job.of_row(row)

    def get(self, job_id: object) -> Job:
        """The job of that id."""
        row = None
        if isinstance(job_id, str) and (self.root / DATABASE).is_file():
            with self._database() as db:
                row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise BadInput(f"there is no job '{job_id}'; it may have been deleted")
        return Job.of_row(row)

    def jobs(self) -> list[Job]:
        """What runs, what waits in its order, then what has ended, the latest first."""
        if not (self.root / DATABASE).is_file():
            return []
        with self._database() as db:
            rows = db.execute("SELECT * FROM jobs ORDER BY number").fetchall()
        found = [Job.of_row(row) for row in rows]
        order = {RUNNING: 0, QUEUED: 1}
        return sorted(
            found,
            key=lambda j: (order.get(j.state, 2), j.place if j.active else -j.number),
        )

    def ahead(self, job: Job) -> int:
        """Jobs that run or wait before this one."""
        return sum(j.active and j.place < job.place for j in self.jobs())

    def cancel(self, job_id: object) -> Job:
        """Take a job out of the queue, or ask its worker to stop; `mend` sees to it that it does."""
        job = self.get(job_id)
        with self._database() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, message = ? WHERE id = ? AND state = ?",
                (CANCELLED, now(), "cancelled while waiting", job.id, QUEUED),
            )
            db.execute(
                "UPDATE jobs SET cancel_requested = coalesce(cancel_requested, ?)"
                " WHERE id = ? AND state = ?",
                (time.time(), job.id, RUNNING),
            )
        return self.get(job.id)

    def resume(self, job_id: object) -> Job:
        """Put a failed or cancelled job at the end of the queue again; it continues where it was."""
        job = self.get(job_id)
        if job.state not in (FAILED, CANCELLED):
            raise BadInput(f"job '{job.title}' is {job.state}; only a stopped one can be resumed")
        with self._database() as db:
            db.execute(
                f"UPDATE jobs SET state = ?, place = {_LAST}, ended = NULL, message = '',"
                " cancel_requested = NULL, attempts = 0, seconds_left = NULL WHERE id = ? AND state = ?",
                (QUEUED, job.id, job.state),
            )
        return self.get(job.id)

    def delete(self, job_id: object) -> None:
        """Forget an ended job, with its log; what it made stays in its study."""
        job = self.get(job_id)
        if job.active:
            raise BadInput(f"job '{job.title}' is {job.state}; cancel it first")
        with self._database() as db:
            db.execute("DELETE FROM jobs WHERE id = ? AND state = ?", (job.id, job.state))
        shutil.rmtree(self.folder(job), ignore_errors=True)

    def logs(self, job_id: object, tail: int = 200) -> str:
        """The last lines of a job's log; empty before it began."""
        file = self.folder(self.get(job_id)) / LOG
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _LOG_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-tail:])

    def previews(self, job: Job) -> dict[str, tuple[int, str]]:
        """Latest pictures as the worker wrote them: file name -> (time of writing in ns, JSON)."""
        found: dict[str, tuple[int, str]] = {}
        for file in sorted(self.folder(job).glob("preview-*.json")):
            try:
                found[file.name] = (file.stat().st_mtime_ns, file.read_text(encoding="utf-8"))
            except FileNotFoundError:  # replaced or removed meanwhile
                continue
        return found

    # -- for workers

    def claim(self, killable: bool = False) -> Job | None:
        """Take the next job for this process; None when nothing waits or another job runs."""
        if not (self.root / DATABASE).is_file():
            return None
        pid = os.getpid()
        with self._database() as db:
            if db.execute("SELECT 1 FROM jobs WHERE state = ?", (RUNNING,)).fetchone():
                return None
            row = db.execute(
                "SELECT id FROM jobs WHERE state = ? ORDER BY place LIMIT 1", (QUEUED,)
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = ?, pid = ?, born = ?, killable = ?, started = ?, heartbeat = ?,"
                " attempts = attempts + 1, done = 0, total = 0, stage = '', finished = 0 WHERE id = ?",
                (
                    RUNNING,
                    pid,
                    processes.birth(pid),
                    killable,
                    now(),
                    time.time(),
                    row["id"],
                ),
            )
            claimed = db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone()
        with faults(self.root):
            (self.root / "jobs" / claimed["id"]).mkdir(parents=True, exist_ok=True)
        return Job.of_row(claimed)

    def report(self, job: Job, fields: Mapping[str, Any]) -> bool:
        """Write progress down; returns whether the job shall go on.

        It shall not when a person cancelled it, or when it is no longer this process's.
        """
        names = ", ".join(f"{name} = ?" for name in ("heartbeat", *fields))
        with self._database() as db:
            changed = db.execute(
                f"UPDATE jobs SET {names} WHERE {_MINE}",
                (time.time(), *fields.values(), job.id, RUNNING, job.pid, job.born),
            ).rowcount
            row = db.execute("SELECT cancel_requested FROM jobs WHERE id = ?", (job.id,)).fetchone()
        return bool(changed) and row["cancel_requested"] is None

    def end(self, job: Job, state: str, message: str = "", made: str = "") -> None:
        """The job is over, unless it was taken from this process."""
        with self._database() as db:
            db.execute(
                "UPDATE jobs SET state = ?, message = ?, made = ?, ended = ?, pid = NULL, born = NULL,"
                f" cancel_requested = NULL, seconds_left = NULL WHERE {_MINE}",
                (state, message, made, now(), job.id, RUNNING, job.pid, job.born),
            )

    def write_preview(self, job: Job, seed: int, text: str) -> None:
        """Replace the pictures of the batch whose first sample has this seed."""
        write_text(self.folder(job) / f"preview-{seed}.json", text)

    def clear_previews(self, job: Job) -> None:
        """Forget the pictures of a run that is complete."""
        for file in self.folder(job).glob("preview-*.json"):
            file.unlink(missing_ok=True)

    # -- for whoever looks after them

    def mend(self) -> list[Job]:
        """Put right what dead and deaf workers left behind; returns the jobs that are active now.

        A job whose process is gone is queued again, or fails after `MOST_ATTEMPTS`. A process that
        has not heeded a cancellation for `PATIENCE` seconds is killed.
        """
        for job in self.jobs():
            if job.state != RUNNING or job.pid is None or job.born is None:
                continue
            asked = job.cancel_requested
            if asked is not None and job.killable and time.time() - asked > PATIENCE:
                processes.kill(job.pid, job.born)
                self._bury(job)
            elif not processes.is_alive(job.pid, job.born):
                self._bury(job)
        return [job for job in self.jobs() if job.active]

    def _bury(self, job: Job) -> None:
        """The process of a job is gone."""
        if job.cancel_requested is not None:
            state, message = CANCELLED, "cancelled; the worker was stopped. Finished runs are kept"
        elif job.attempts >= MOST_ATTEMPTS:
            state = FAILED
            message = (
                f"the worker process died {job.attempts} times, perhaps for want of memory; "
                "the log has its last words"
            )
        else:
            state, message = QUEUED, "the worker process died; the job continues where it was"
        with self._database() as db:
            db.execute(
                "UPDATE jobs SET state = ?, message = ?, ended = ?, pid = NULL, born = NULL,"
                f" cancel_requested = NULL, seconds_left = NULL WHERE {_MINE}",
                (
                    state,
                    message,
                    None if state == QUEUED else now(),
                    job.id,
                    RUNNING,
                    job.pid,
                    job.born,
                ),
            )
        if state != QUEUED:
            _close_study(job, state)

    def _database(self) -> AbstractContextManager[sqlite3.Connection]:
        path = self.root / DATABASE
        return transaction(path, f"job list {path}", STEPS)


_LAST = "(SELECT coalesce(max(place), 0) + 1 FROM jobs)"
_MINE = "id = ? AND state = ? AND pid = ? AND born = ?"  # a job that was taken away is left alone


def _close_study(job: Job, state: str) -> None:
    """Write into the study how its comparison ended, since the worker cannot."""
    try:
        Study.open(job.study).abandon(job.id, state)
    except DQVizError:  # it was not begun, or is gone
        return
