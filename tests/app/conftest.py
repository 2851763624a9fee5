"""A comparison without a model, the page's server, and a browser that reports what it asks for."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest

from dqviz.events import Done, Preview, Progress, RunFinished, Stage
from dqviz.request import CompareRequest
from dqviz.study import NewRun, Study
from dqviz.study_folder import default_folder, studies_root
from quant.errors import Cancelled
from quant.schema import Sample
from tests.tables import METRICS, write_table

STORED = Path(__file__).parent / "result.json"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def stored() -> dict[str, Any]:
    """Result and drifts of a real comparison of the tiny model: {"result", "drifts"}."""
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.fixture
def result() -> dict[str, Any]:
    return stored()["result"]


@pytest.fixture
def drifts() -> dict[str, Any]:
    return stored()["drifts"]


@pytest.fixture(autouse=True)
def no_recorded_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees the studies that it makes."""
    for module in ("dqviz.study_folder", "dqviz.studies"):
        monkeypatch.setattr(f"{module}.RECORDED", tmp_path / "nothing-recorded")


@dataclass
class FakeCompare:
    """Draws noise in steps, tells the same events as the engine, and writes a real study."""

    steps: int = 3
    pause: float = 0.0
    frames: int = 0  # of clips; 0: pictures
    fails: Exception | None = None
    fails_in_run: int = -1
    held: set[tuple[int, ...]] = field(default_factory=set)  # seeds of requests that wait to go on
    held_from: tuple[int, int] = (0, 0)  # run and step before which they begin to wait
    requests: list[CompareRequest] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=lambda: stored()["result"]["model"])

    def __call__(
        self,
        request: CompareRequest,
        on_event: Callable[[Any], None],
        cancelled: Callable[[], bool],
        key: str,
    ) -> dict[str, Any]:
        self.requests.append(request)
        if self.fails is not None and self.fails_in_run < 0:
            raise self.fails
        folder = request.out or default_folder(request.model)
        study = Study.open_or_create(folder, self.model, {"dqviz": "0"})
        number = study.begin(request.to_json(), {}, key=key)
        records: list[dict[str, Any]] = []
        templates = stored()["result"]["runs"]
        methods = ("full-precision", *request.methods)
        total = len(methods) * self.steps * len(request.seeds)
        try:
            for index, method in enumerate(methods):
                if index == self.fails_in_run and self.fails is not None:
                    raise self.fails
                template = templates[min(index, len(templates) - 1)]
                name = study.free_name(method, [])
                on_event(Stage("draw", method))
                images = self._draw(request, name, index, total, on_event, cancelled)
                bits = request.bits[0] if index and request.bits else None
                record = {**template, "name": name, "method": method, "bits": bits}
                record.pop("drift", None)
                samples = [{"seed": s, "class_id": i % 3} for i, s in enumerate(request.seeds)]
                recipe = {"samples": samples, "sampler": {"steps": self.steps, "guidance": 3.0}}
                traced = next(iter(stored()["drifts"].values())) if index else None
                run = NewRun(name, record, recipe, request.seeds, images, drift=traced)
                records.append(study.add_run(number, run))
                on_event(RunFinished(records[-1]))
        except BaseException as error:
            study.finish(number, "cancelled" if isinstance(error, Cancelled) else "failed")
            raise
        study.finish(number, "done", _pairs(records), stored()["result"]["ladder"])
        done = study.result(number)
        on_event(Done(done))
        return done

    def _draw(
        self,
        request: CompareRequest,
        name: str,
        index: int,
        total: int,
        on_event: Callable[[Any], None],
        cancelled: Callable[[], bool],
    ) -> np.ndarray:
        n = len(request.seeds)
        shape = (n, *([self.frames] if self.frames else []), 8, 8, 3)
        images = np.zeros(shape, np.uint8)
        samples = tuple(Sample(seed=s, class_id=0) for s in request.seeds)
        for step in range(self.steps):
            time.sleep(self.pause)
            while self._holds(request, index, step) and not cancelled():
                time.sleep(0.02)
            if cancelled():
                raise Cancelled("cancelled")
            images = np.random.default_rng([index, step]).integers(0, 256, shape, np.uint8)
            done = (index * self.steps + step + 1) * n
            on_event(Progress(done, total, 1.0, name))
            on_event(Preview(name, images, samples, step, self.steps))
        return images

    def _holds(self, request: CompareRequest, index: int, step: int) -> bool:
        return request.seeds in self.held and (index, step) >= self.held_from


def _pairs(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stored pair, between the runs of this comparison."""
    pair = stored()["result"]["pairs"][0]
    return [{**pair, "a": records[2]["name"], "b": records[1]["name"]}] if len(records) > 2 else []


@dataclass(frozen=True)
class Served:
    """A running app."""

    url: str
    compare: FakeCompare


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Starts the app with a comparison of one's own; every server stops after the test."""
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "home"))
    stops: list[Callable[[], None]] = []

    def start(compare: Any = None, **bench: Any) -> Served:
        from dqviz.ui.bench import Bench
        from dqviz.ui.server import make_app

        runner = compare or FakeCompare()
        made = Bench(compare=runner, **bench)
        url, stop = run_server(make_app(made))
        stops.extend([lambda: finish(made), stop])
        return Served(url, runner)

    yield start
    for stop in stops:
        stop()


def finish(bench: Any) -> None:
    """Cancel what runs, so that nothing writes after the test."""
    deadline = time.monotonic() + 30
    for job in bench.store.jobs():
        if job.active:
            bench.desk.cancel(job.id)
    while any(job.active for job in bench.store.jobs()):
        assert time.monotonic() < deadline, "a job does not stop"
        time.sleep(0.05)


def run_server(app: Any) -> tuple[str, Callable[[], None]]:
    """Serve an app from a thread on a free port; returns its address and how to stop it."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    return f"http://127.0.0.1:{port}/", stop


@pytest.fixture
def with_table(serve: Callable[..., Served]) -> Served:
    """The app, and a study `mine` with a table of three blocks in two windows."""
    found = serve()
    write_table(studies_root() / "mine", blocks=3, windows=2)
    return found


@pytest.fixture
def with_metrics(serve: Callable[..., Served]) -> Served:
    """The app, and a study `mine` with tables of two metrics."""
    found = serve()
    write_table(studies_root() / "mine", metrics=METRICS)
    return found


@pytest.fixture(scope="session")
def swept(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the tiny model with a real table of two layers, for jobs; read only."""
    from dqviz.sweeping import SweepRequest, sweep

    out = tmp_path_factory.mktemp("swept") / "real"
    asked = {"model": str(tiny_dit), "out": out, "bits": "4,8", "windows": 2, "tier": "layer"}
    sweep(SweepRequest.parse({**asked, "sites": "ff.net.2", "seeds": "200000-200001"}))
    return out


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; at the end none may have asked another host for anything, or have logged an error."""
    contexts, outside, errors = [], [], []

    def asked(request: Any) -> None:
        url = urlparse(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.hostname != "127.0.0.1":
            outside.append(request.url)

    # A reload ends the stream that Gradio reads from; it calls that an error, in words of the moment.
    ended = ("AbortError: signal is aborted", "AbortError: BodyStreamBuffer was aborted", "errored out.")  # fmt: skip

    def said(message: Any) -> None:
        if message.type == "error":
            failed(message.text)

    def failed(error: Any) -> None:
        if not any(words in str(error) for words in ended):
            errors.append(str(error))

    def open_page(width: int = 1280, dark: bool = False, touch: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a guard against hanging, not a measure of speed
        page.on("request", asked)
        page.on("console", said)
        page.on("pageerror", failed)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == []
    assert errors == []
