"""How the app answers while a job runs and eight people watch: `python -m benchmarks.app`.

A real server process on a study folder of its own, with a real comparison of `dit-emoji` in a worker.
Eight clients ask what the pages ask, over and over: the page itself, the list of jobs, the list of
studies, more pictures of a comparison. Then a job is cancelled, and a worker is killed. Writes
`docs/results/app.json` and `docs/results/app.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from dqviz import machine, processes
from dqviz.comparison import compare
from dqviz.jobs import Job, JobStore
from dqviz.records import versions
from dqviz.request import CompareRequest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
CLIENTS = 8
PAUSE = 1.0  # seconds between two questions of one client, as the Runs page waits
BOUND = 1.0  # seconds: what 95 % of the answers shall stay under
FIRST = {
    "model": "dit-emoji",
    "methods": "rtn",
    "bits": "w8a8",
    "seeds": "0-7",
    "steps": 4,
    "ladder": False,
}
LONG = {"model": "dit-emoji", "methods": "rtn,viditq", "bits": "w4a8", "seeds": "0-63"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class App:
    """The app as a process."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")],
            env={**os.environ, "DQVIZ_PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, 120)
        self.seconds = time.perf_counter() - started
        self.components: dict[str, int] = {}
        for path in ("config", "runs/config"):
            answer = httpx.get(self.url + path)
            for component in answer.json()["components"] if answer.status_code == 200 else ():
                self.components[str(component["props"].get("elem_id"))] = component["id"]

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, client: httpx.Client, elem_id: str, function: str, query: Any) -> dict[str, Any]:
        """Call a server function as the page's script does."""
        body = {
            "data": query,
            "component_id": self.components[elem_id],
            "fn_name": function,
            "session_hash": "benchmark",
        }
        answer = client.post(self.url + "gradio_api/component_server", json=body)
        answer.raise_for_status()
        found = answer.json()
        if "error" in found:
            raise SystemExit(f"{function}: {found['error']}")
        return found


def until(ready: Callable[[], Any], seconds: float) -> Any:
    """What `ready` says once it says something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit("what was waited for did not happen")


def watch(app: App, seconds: float) -> tuple[dict[str, list[float]], list[int]]:
    """Seconds of every answer by question, and how many states of progress each client saw."""
    times: dict[str, list[float]] = {}
    lock = threading.Lock()
    seen: list[set[int]] = [set() for _ in range(CLIENTS)]
    over = time.monotonic() + seconds

    def one(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            pictures = {"study": "dit-emoji", "comparison": 1, "first": 0, "count": 8}
            questions: dict[str, Callable[[], Any]] = {
                "the page": lambda: client.get(app.url),
                "list of jobs": lambda: app.ask(client, "dq-jobs", "runs_jobs", {}),
                "list of studies": lambda: app.ask(client, "dq-jobs", "runs_studies", {}),
                "8 pictures of 2 runs": lambda: app.ask(client, "dq-result", "pictures", pictures),
            }
            while time.monotonic() < over:
                for name, question in questions.items():
                    began = time.perf_counter()
                    answer = question()
                    spent = time.perf_counter() - began
                    with lock:
                        times.setdefault(name, []).append(spent)
                    if name == "list of jobs":
                        seen[number].update(j["done"] for j in answer["jobs"] if j["active"])
                    time.sleep(PAUSE)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, [len(states) for states in seen]


def summary(values: list[float]) -> dict[str, float]:
    """Answers, median, 95th percentile and largest, in seconds."""
    ordered = sorted(values)
    return {
        "answers": len(ordered),
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "largest": ordered[-1],
    }


def running(store: JobStore, job: Job) -> Job | None:
    """The job once it draws."""
    now = store.get(job.id)
    if not now.active:
        raise SystemExit(f"the job is {now.state}: {now.message}")
    return now if now.state == "running" and now.done else None


def measured(seconds: float) -> dict[str, Any]:
    """Everything, in a folder of its own."""
    store = JobStore()
    compare(CompareRequest.parse(FIRST))
    app = App()
    try:
        with httpx.Client(timeout=60) as client:
            for name in ("dq-jobs", "dq-result"):
                if name not in app.components:
                    raise SystemExit(f"no component {name} in the page's configuration")
            load = os.getloadavg()[0]
            asked = time.perf_counter()
            job = store.submit("compare", CompareRequest.parse(LONG).to_json())
            app.ask(client, "dq-jobs", "runs_jobs", {})  # the app sees it and starts a worker
            until(lambda: running(store, job), 120)
            first_step = time.perf_counter() - asked
            times, states = watch(app, seconds)

            killed = time.perf_counter()
            now = store.get(job.id)
            assert now.pid is not None
            os.kill(now.pid, signal.SIGKILL)
            until(lambda: store.get(job.id).attempts == 2 and running(store, job), 120)
            resumed = time.perf_counter() - killed

            began = time.perf_counter()
            app.ask(client, "dq-jobs", "runs_job", {"action": "cancel", "id": job.id})
            until(lambda: store.get(job.id).state == "cancelled", 60)
            cancelled = time.perf_counter() - began
    finally:
        app.process.terminate()
        app.process.wait()
        for job in store.jobs():
            if job.pid and job.born:
                processes.kill(job.pid, job.born)
    everything = [value for values in times.values() for value in values]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": f"CPU, {machine.cores()} cores",
        "load_before": load,
        "versions": versions(),
        "clients": CLIENTS,
        "seconds": seconds,
        "answers": {name: summary(values) for name, values in times.items()}
        | {"all": summary(everything)},
        "states_seen": states,
        "app_starts_seconds": app.seconds,
        "first_step_seconds": first_step,
        "cancelled_seconds": cancelled,
        "resumed_seconds": resumed,
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    p95 = result["answers"]["all"]["p95"]
    lines = [
        "# The app while a job runs",
        "",
        "Written by `python -m benchmarks.app`; do not edit.",
        "",
        f"{result['device']} (load average {result['load_before']:.1f} before the start), {result['date']}, "
        f"torch {result['versions']['torch']}. {result['clients']} clients ask for {result['seconds']:.0f} s, each one question a "
        "second, while a worker draws a comparison of `dit-emoji` (measured).",
        "",
        "| question | answers | median s | p95 s | largest s |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in result["answers"].items():
        lines.append(
            f"| {name} | {row['answers']} | {row['median']:.3f} | {row['p95']:.3f} | {row['largest']:.3f} |"
        )
    lines += [
        "",
        f"95 % of the answers came within {p95:.2f} s; the aim is {BOUND:g} s: {'met' if p95 <= BOUND else 'missed'}. "
        f"Every client saw the job move: {min(result['states_seen'])} to {max(result['states_seen'])} states of progress each.",
        "",
        "| what | seconds |",
        "|---|---:|",
        f"| start of the app until it answers | {result['app_starts_seconds']:.1f} |",
        f"| from asking for a job to its first denoising step (torch and model load) | {result['first_step_seconds']:.1f} |",
        f"| from Cancel until the job is cancelled | {result['cancelled_seconds']:.2f} |",
        f"| from `kill -9` of the worker until its successor draws again | {result['resumed_seconds']:.1f} |",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the clients ask")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as home:
        os.environ["DQVIZ_HOME"] = home
        result = measured(seconds)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "app.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "app.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
