"""Worker processes: killed at any moment, they leave a study that opens and a job that resumes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from dqviz import jobs, processes
from dqviz.comparison import compare
from dqviz.jobs import Job, JobStore
from dqviz.request import CompareRequest
from dqviz.study import Study
from quant.errors import Cancelled

METHODS = ("rtn", "viditq", "rtn")


@pytest.fixture
def store() -> Iterator[JobStore]:
    """The job list of the test's own DQVIZ_HOME; its workers do not outlive the test."""
    made = JobStore()
    yield made
    for job in made.jobs():
        if job.state == jobs.RUNNING and job.pid and job.born:
            processes.kill(job.pid, job.born)


def request(model: Path, out: Path | None = None, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": str(model),
        "methods": METHODS,
        "bits": "w4a8,w4a8,w8a8",
        "seeds": "0-5",
        "steps": 16,
        "batch_size": 2,
        "calibration_seeds": "100-101",
        "out": out,
    }
    return CompareRequest.parse(fields | more).to_json()


def until(store: JobStore, job: Job, wanted: Callable[[Job], bool], seconds: float = 120) -> Job:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = store.get(job.id)
        if wanted(job):
            return job
        time.sleep(0.02)
    raise AssertionError(f"still {job.state}: {job.stage} {job.message}\n{store.logs(job.id)}")


def ended(job: Job) -> bool:
    return not job.active


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """What a comparison says, without what depends on when, where and how fast."""
    runs = [
        {k: v for k, v in run.items() if k not in ("seconds_per_sample",)} for run in result["runs"]
    ]
    return {
        "runs": json.loads(json.dumps(runs)),
        **{key: result[key] for key in ("pairs", "ladder", "warnings", "lossless", "status")},
    }


@pytest.fixture(scope="module")
def uninterrupted(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "study"
    result = compare(CompareRequest.parse(request(tiny_dit, out)))
    return {**result, "pictures": pictures(out)}


def pictures(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.glob("images/*/*.png")}


def test_a_worker_does_the_queue_in_order_and_ends(tiny_dit: Path, store: JobStore) -> None:
    asked = {"methods": ["rtn"], "bits": "w8a8", "seeds": "0", "ladder": False}
    first = store.submit("compare", request(tiny_dit, **asked))
    second = store.submit("compare", request(tiny_dit, **asked))
    process = processes.start_worker(store.root, 0)
    assert process.wait(180) == 0
    done = [store.get(first.id), store.get(second.id)]
    assert [j.state for j in done] == ["done", "done"], [j.message for j in done]
    assert done[0].ended is not None
    assert done[1].started is not None
    assert done[0].ended <= done[1].started
    assert done[0].done == done[0].total > 0
    assert "finished rtn-w8a8" in store.logs(first.id)
    study = Study.open(store.root / "studies" / "tiny-dit")
    assert [c["status"] for c in study.comparisons()] == ["done", "done"]


@pytest.mark.parametrize("moment", ["first steps", "two runs", "ladder"])
def test_a_killed_worker_resumes_with_the_same_numbers(
    tiny_dit: Path, store: JobStore, uninterrupted: dict[str, Any], moment: str
) -> None:
    job = store.submit("compare", request(tiny_dit))
    processes.start_worker(store.root, 0)
    reached: dict[str, Callable[[Job], bool]] = {
        "first steps": lambda j: j.done > 0,
        "two runs": lambda j: j.finished == 2,
        "ladder": lambda j: "ladder" in j.stage,
    }
    running = until(store, job, reached[moment])
    assert running.pid
    os.kill(running.pid, signal.SIGKILL)
    os.waitpid(running.pid, 0)

    study = Study.open(store.root / "studies" / "tiny-dit", read_only=True)
    kept = len(study.runs())
    assert [j.state for j in store.mend()] == ["queued"]
    processes.start_worker(store.root, 0)
    done = until(store, job, ended)
    assert (done.state, done.message, done.attempts) == ("done", "", 2)
    number = study.comparison_of(job.id)
    assert number is not None
    assert numbers(study.result(number)) == numbers(uninterrupted)
    assert pictures(study.folder) == uninterrupted["pictures"]
    assert len(study.comparisons()) == 1
    assert store.logs(job.id).count("finished ") == 4, f"each run once; {kept} before the kill"
    assert not list(study.folder.glob("resume-*")), "what was kept for a resumption is gone"


def test_cancel_stops_before_the_end_and_resume_continues(
    tiny_dit: Path, store: JobStore, uninterrupted: dict[str, Any]
) -> None:
    job = store.submit("compare", request(tiny_dit))
    processes.start_worker(store.root, 0)
    until(store, job, lambda j: j.finished == 1)
    store.cancel(job.id)
    stopped = until(store, job, ended)  # how soon: docs/results/app.md
    assert stopped.state == "cancelled"
    study = Study.open(store.root / "studies" / "tiny-dit", read_only=True)
    assert study.result()["status"] == "cancelled"
    with safe_open(next(study.folder.glob("resume-*")), framework="np") as kept:
        assert "images" in kept.keys()  # noqa: SIM118

    store.resume(job.id)
    processes.start_worker(store.root, 0)
    until(store, job, lambda j: j.state == "done")
    assert numbers(study.result()) == numbers(uninterrupted)


def test_a_deaf_worker_is_killed(tiny_dit: Path, store: JobStore) -> None:
    job = store.submit("compare", request(tiny_dit))
    processes.start_worker(store.root, 0)
    running = until(store, job, lambda j: j.done > 0)
    assert running.pid
    with contextlib.closing(sqlite3.connect(store.root / jobs.DATABASE, timeout=30)) as db:
        db.execute("BEGIN IMMEDIATE")  # so that it is not stopped while it holds the list's lock
        os.kill(running.pid, signal.SIGSTOP)  # it hears nothing now
        db.execute("ROLLBACK")
    store.cancel(job.id)
    store.mend()
    assert store.get(job.id).state == "running", "it has two seconds"
    time.sleep(jobs.PATIENCE + 0.1)
    store.mend()
    assert store.get(job.id).state == "cancelled"
    deadline = time.monotonic() + 30
    while processes.is_alive(running.pid, running.born):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    study = Study.open(running.study, read_only=True)
    assert study.comparisons()[0]["status"] == "cancelled"


def test_two_workers_share_the_queue_and_no_job(tiny_dit: Path, store: JobStore) -> None:
    asked = {"methods": ["rtn"], "bits": "w8a8", "seeds": "0", "ladder": False}
    made = [store.submit("compare", request(tiny_dit, **asked)) for _ in range(3)]
    workers = [processes.start_worker(store.root, 0) for _ in range(2)]
    for worker in workers:
        assert worker.wait(240) == 0
    while any(j.active for j in store.jobs()):  # both may have ended while the last one ran
        assert processes.start_worker(store.root, 0).wait(240) == 0
    assert [store.get(j.id).attempts for j in made] == [1, 1, 1]
    assert len(Study.open(made[0].study).comparisons()) == 3


def test_a_refusal_is_the_jobs_one_line(
    tiny_dit: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is looked at before anything is loaded; the message arrives where people look."""
    from dqviz import machine, worker

    monkeypatch.setattr(machine, "available_memory", lambda: 10 * machine.MIB)
    job = store.submit("compare", request(tiny_dit))
    worker.work(store)
    failed = store.get(job.id)
    assert failed.state == "failed"
    assert "MiB of memory and 10 MiB are free" in failed.message
    assert "\n" not in failed.message
    assert not (store.root / "studies").exists()


def test_a_broken_table_is_the_jobs_one_line(
    tiny_dit: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is met where a layer first computes; wherever that is, it is no internal error."""
    from dqviz import machine, worker
    from kernels.tables import BrokenTable

    def broken() -> int:
        raise BrokenTable("int_linear.json is no table of measured times")

    monkeypatch.setattr(machine, "available_memory", broken)
    job = store.submit("compare", request(tiny_dit))
    worker.work(store)
    assert store.get(job.id).message == "int_linear.json is no table of measured times"


def test_a_finished_comparison_is_not_made_again(tiny_dit: Path, tmp_path: Path) -> None:
    """The worker died after the last run was stored and before the list knew."""
    asked = CompareRequest.parse(
        request(tiny_dit, tmp_path / "s", methods=["rtn"], bits="w8a8", seeds="0", ladder=False)
    )
    first = compare(asked, key="k")
    events: list[Any] = []
    assert compare(asked, events.append, key="k") == first
    assert events == []


def test_without_what_was_kept_full_precision_is_drawn_again(
    tiny_dit: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    asked = CompareRequest.parse(request(tiny_dit, tmp_path / "s"))
    finished: list[Any] = []

    def watch(event: Any) -> None:
        if event.kind == "run":
            finished.append(event)

    with pytest.raises(Cancelled):
        compare(asked, watch, lambda: len(finished) == 2, key="k")
    (kept,) = (tmp_path / "s").glob("resume-*")
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged
    assert numbers(compare(asked, key="k")) == numbers(uninterrupted)
