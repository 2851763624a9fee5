"""The list of jobs: order, states, who owns a job, and what a broken list says."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqviz import jobs, processes, worker
from dqviz.events import Preview, Progress, RunFinished, Stage
from dqviz.jobs import JobStore
from dqviz.work import KINDS, Kind
from quant.errors import BadInput, Cancelled, EnvironmentFault
from quant.schema import Sample

REQUEST = {"model": "tiny", "methods": ["rtn"], "bits": ["w8a8"], "seeds": [0]}


@pytest.fixture
def store() -> JobStore:
    return JobStore()


def doing(run: Callable[..., Any]) -> dict[str, Kind]:
    return {**KINDS, "compare": replace(KINDS["compare"], run=run)}


def states(store: JobStore) -> list[str]:
    return [job.state for job in sorted(store.jobs(), key=lambda job: job.number)]


def test_a_job_is_what_was_asked_for(store: JobStore) -> None:
    job = store.submit("compare", REQUEST)
    assert job == store.get(job.id)
    assert (job.state, job.title) == ("queued", "tiny: rtn w8a8, 1 seed")
    assert job.request == REQUEST
    assert job.study.name == "tiny"
    assert KINDS["compare"].command(job.request).startswith("dqviz compare tiny --method rtn")


@pytest.mark.parametrize(
    ("kind", "request_", "says"),
    [
        ("train", REQUEST, "unknown kind of job 'train'"),
        ("compare", {**REQUEST, "methods": ["rnt"]}, "nearest: rtn"),
        ("compare", {**REQUEST, "bits": ["w9a9"]}, "w9a9"),
        ("compare", {**REQUEST, "colour": "red"}, "colour"),
        ("compare", {}, "model"),
        ("capture", {"model": "m", "seeds": []}, "seed"),
    ],
)
def test_what_cannot_be_done_is_not_queued(
    store: JobStore, kind: str, request_: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        store.submit(kind, request_)
    assert store.jobs() == []


def test_a_job_names_what_it_made(store: JobStore) -> None:
    made = doing(lambda *_: {"run": "rtn-2"})
    named = {**made, "compare": replace(made["compare"], made="run")}
    for kinds, name in ((made, ""), (named, "rtn-2")):
        job = store.submit("compare", REQUEST)
        worker.work(store, kinds)
        assert (store.get(job.id).state, store.get(job.id).made) == ("done", name)


def test_asking_makes_no_files(store: JobStore) -> None:
    assert store.jobs() == []
    assert store.claim() is None
    assert store.mend() == []
    with pytest.raises(BadInput, match="no job 'x'"):
        store.get("x")
    assert not store.root.exists()


@given(
    st.lists(st.sampled_from(["submit", "claim", "cancel", "end", "resume", "fail"]), max_size=30)
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_queue_is_in_order_and_one_job_runs(tmp_path: Path, steps: list[str]) -> None:
    """Whatever happens: at most one runs, and what is claimed is what has waited longest."""
    store = JobStore(Path(str(tmp_path)) / f"{time.monotonic_ns()}")
    waiting: list[str] = []  # a model of the queue
    running: jobs.Job | None = None
    stopped: list[str] = []
    for step in steps:
        if step == "submit":
            waiting.append(store.submit("compare", REQUEST).id)
        elif step == "claim":
            claimed = store.claim()
            expected = waiting.pop(0) if waiting and running is None else None
            assert (claimed.id if claimed else None) == expected
            running = claimed or running
        elif step == "cancel" and waiting:
            stopped.append(waiting.pop())
            assert store.cancel(stopped[-1]).state == "cancelled"
        elif step in ("end", "fail") and running is not None:
            store.end(running, "done" if step == "end" else "failed")
            if step == "fail":
                stopped.append(running.id)
            running = None
        elif step == "resume" and stopped:
            waiting.append(stopped.pop(0))
            assert store.resume(waiting[-1]).state == "queued"
        listed = store.jobs()
        assert [j.id for j in listed if j.state == "queued"] == waiting
        assert [j.id for j in listed if j.state == "running"] == ([running.id] if running else [])
        if waiting:
            ahead = store.ahead(store.get(waiting[-1]))
            assert ahead == len(waiting) - 1 + (running is not None)


def test_many_claim_and_each_job_is_claimed_once(store: JobStore) -> None:
    for _ in range(6):
        store.submit("compare", REQUEST)
    got: list[str] = []

    def take() -> None:
        for _ in range(40):
            job = store.claim()
            if job is not None:
                got.append(job.id)
                store.end(job, "done")

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(job.id for job in store.jobs())


def dead_process() -> tuple[int, str]:
    """Number and birth of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = processes.birth(process.pid)
    assert born is not None
    process.kill()
    assert processes.birth(process.pid) is None or process.wait() is not None
    process.communicate()
    return process.pid, born


def owned_by(store: JobStore, job: jobs.Job, pid: int, born: str) -> None:
    with sqlite3.connect(store.root / jobs.DATABASE) as db:
        db.execute("UPDATE jobs SET pid = ?, born = ? WHERE id = ?", (pid, born, job.id))
    db.close()


def test_the_job_of_a_dead_process_goes_back_to_the_head(store: JobStore) -> None:
    first, second = (store.submit("compare", REQUEST) for _ in range(2))
    assert store.claim() is not None
    owned_by(store, first, *dead_process())
    assert [j.id for j in store.mend()] == [first.id, second.id]
    again = store.claim()
    assert again is not None
    assert (again.id, again.attempts) == (first.id, 2)


def test_a_number_that_was_given_again_is_not_the_worker(store: JobStore) -> None:
    """This very process has the number, but was born at another time."""
    job = store.submit("compare", REQUEST)
    store.claim()
    assert states(store) == ["running"]
    store.mend()
    assert states(store) == ["running"], "alive"
    owned_by(store, job, os.getpid(), "another boot:1")
    store.cancel(job.id)
    store.mend()
    assert states(store) == ["cancelled"], "and we were not killed"


def test_a_job_that_kills_its_worker_thrice_fails(store: JobStore) -> None:
    job = store.submit("compare", REQUEST)
    for _ in range(jobs.MOST_ATTEMPTS):
        assert store.claim() is not None
        owned_by(store, job, *dead_process())
        store.mend()
    failed = store.get(job.id)
    assert failed.state == "failed"
    assert "died 3 times" in failed.message
    assert store.resume(job.id).attempts == 0


def test_a_job_that_was_taken_away_is_left_alone(store: JobStore) -> None:
    """A worker that was declared dead, and was not, must not write over its successor's job."""
    store.submit("compare", REQUEST)
    old = store.claim()
    assert old is not None
    assert store.report(old, {"done": 1})
    owned_by(store, old, 1, "somebody else")
    assert not store.report(old, {"done": 99}), "it is told to stop"
    store.end(old, "done")
    kept = store.get(old.id)
    assert (kept.state, kept.done) == ("running", 1)


def test_only_ended_jobs_are_deleted_and_only_stopped_ones_resumed(store: JobStore) -> None:
    job = store.submit("compare", REQUEST)
    with pytest.raises(BadInput, match="cancel it first"):
        store.delete(job.id)
    with pytest.raises(BadInput, match="only a stopped one"):
        store.resume(job.id)
    worker.work(store, doing(lambda *_: None))
    with pytest.raises(BadInput, match="is done"):
        store.resume(job.id)
    folder = store.folder(job)
    assert folder.is_dir()
    store.delete(job.id)
    assert store.jobs() == []
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../..", "/etc/passwd", "", None, 3, "' OR 1=1 --", ["x"]])
def test_an_id_is_looked_up_and_never_a_path(store: JobStore, name: object) -> None:
    store.submit("compare", REQUEST)
    for ask in (store.get, store.cancel, store.resume, store.delete, store.logs):
        with pytest.raises(BadInput, match="there is no job"):
            ask(name)
    assert states(store) == ["queued"]


# -- the work


@pytest.mark.parametrize(
    ("error", "state", "says"),
    [
        (BadInput("class 'x' was\nnever trained"), "failed", "class 'x' was never trained"),
        (EnvironmentFault("the disk is full"), "failed", "the disk is full"),
        (Cancelled("cancelled; 2 kept"), "cancelled", "cancelled; 2 kept"),
        (ZeroDivisionError("by zero"), "failed", "internal error (ZeroDivisionError): by zero"),
        (MemoryError(), "failed", "internal error (MemoryError)"),
    ],
)
def test_how_work_ends(store: JobStore, error: Exception, state: str, says: str) -> None:
    def run(*_: Any) -> None:
        raise error

    job = store.submit("compare", REQUEST)
    worker.work(store, doing(run))
    ended = store.get(job.id)
    assert ended.state == state
    assert says in ended.message
    assert "\n" not in ended.message
    assert ("Traceback" in store.logs(job.id)) is ("internal" in says)


def test_what_work_says_is_in_the_list(store: JobStore) -> None:
    seen: list[jobs.Job] = []
    samples = (Sample(seed=7), Sample(seed=8))

    def run(request: Any, on_event: Any, cancelled: Any, key: str) -> None:
        assert key == job.id
        on_event(Stage("draw", "RTN w8a8"))
        on_event(Progress(3, 12, 4.5, "rtn"))
        images = np.zeros((2, 4, 4, 3), np.uint8)
        for step in range(50):  # many events, few writings
            on_event(Preview("rtn", images, samples, step, 50))
        deadline = time.monotonic() + 20
        while not store.previews(job):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        seen.append(store.get(job.id))
        on_event(RunFinished({"name": "rtn"}))
        assert store.previews(job) == {}

    job = store.submit("compare", {**REQUEST, "seeds": [7, 8]})
    worker.work(store, doing(run))
    (running,) = seen
    assert (running.stage, running.done, running.total) == ("Drawing RTN w8a8", 3, 12)
    assert running.seconds_left == 4.5
    assert store.get(job.id).finished == 1


def test_previews_are_at_most_two_a_second(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    monkeypatch.setattr(JobStore, "write_preview", lambda *_: written.append(time.monotonic()))
    images = np.zeros((1, 2, 2, 3), np.uint8)

    def run(request: Any, on_event: Any, *_: Any) -> None:
        until = time.monotonic() + 2.2
        while time.monotonic() < until:
            on_event(Preview("rtn", images, (Sample(seed=0),), 0, 9))
            time.sleep(0.005)

    store.submit("compare", REQUEST)
    worker.work(store, doing(run))
    assert len(written) >= 2
    assert min(b - a for a, b in itertools.pairwise(written)) >= 0.45


def test_cancelling_reaches_the_work(store: JobStore) -> None:
    def run(request: Any, on_event: Any, cancelled: Any, key: str) -> None:
        store.cancel(key)
        deadline = time.monotonic() + 20
        while not cancelled():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise Cancelled("cancelled")

    job = store.submit("compare", REQUEST)
    worker.work(store, doing(run))
    assert store.get(job.id).state == "cancelled"


def test_a_full_disk_stops_previews_and_not_the_work(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise EnvironmentFault("the disk is full")

    def run(request: Any, on_event: Any, *_: Any) -> None:
        on_event(Preview("rtn", np.zeros((1, 2, 2, 3), np.uint8), (Sample(seed=0),), 0, 9))
        time.sleep(0.6)

    monkeypatch.setattr(JobStore, "write_preview", full)
    job = store.submit("compare", REQUEST)
    worker.work(store, doing(run))
    assert store.get(job.id).state == "done"
    assert "progress was not written: the disk is full" in store.logs(job.id)


def test_a_log_is_bounded(store: JobStore) -> None:
    job = store.submit("compare", REQUEST)
    store.folder(job).mkdir(parents=True)
    (store.folder(job) / jobs.LOG).write_text("x" * 100 + "\n" * 2_000_000 + "the end\n")
    text = store.logs(job.id)
    assert text.endswith("the end")
    assert len(text) < 1 << 18


# -- a list that does not open


def test_a_broken_list_is_one_line(store: JobStore) -> None:
    store.root.mkdir(parents=True)
    (store.root / jobs.DATABASE).write_bytes(b"no database at all" * 300)
    for ask in (store.jobs, store.claim, lambda: store.submit("compare", REQUEST)):
        with pytest.raises(
            BadInput, match=r"jobs\.sqlite is not a readable job database"
        ) as caught:
            ask()
        assert "move it away" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_newer_list_is_refused(store: JobStore) -> None:
    store.submit("compare", REQUEST)
    with sqlite3.connect(store.root / jobs.DATABASE) as db:
        db.execute("INSERT INTO migrations VALUES ('m999_swarm')")
    db.close()
    with pytest.raises(BadInput, match=r"newer version.*m999_swarm.*update dqviz"):
        store.jobs()


def test_looking_at_jobs_loads_no_engine() -> None:
    program = (
        "import sys, dqviz.jobs, dqviz.work, dqviz.worker, dqviz.studies\n"
        "assert not {'torch', 'diffusers', 'gradio', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
