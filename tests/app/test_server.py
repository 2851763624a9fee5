"""The server: what it offers, what it refuses, how it starts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import dqviz
from dqviz.ui import server
from dqviz.ui.bench import Bench
from dqviz.ui.shell import build
from quant.errors import BadInput, EnvironmentFault
from tests.app.conftest import FakeCompare, run_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return build(Bench(compare=FakeCompare())).get_config_file()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    address, stop = run_server(server.make_app(Bench(compare=FakeCompare())))
    yield address
    stop()


def test_nothing_of_the_page_is_a_public_endpoint(config: dict[str, Any]) -> None:
    assert {d["api_visibility"] for d in config["dependencies"]} == {"private"}


def test_every_control_has_a_label_and_a_place_in_the_page(config: dict[str, Any]) -> None:
    inputs = {"dropdown", "textbox", "number", "checkbox", "file"}
    controls = [c["props"] for c in config["components"] if c["type"] in inputs]
    assert len(controls) >= 12
    assert all(c["label"] and c["elem_id"].startswith("dq-") for c in controls)


def test_gradio_never_draws_plots_or_unescaped_text(config: dict[str, Any]) -> None:
    kinds = {c["type"] for c in config["components"]}
    assert not kinds & {"plot", "dataframe", "gallery", "image"}
    for component in config["components"]:
        template = component["props"].get("html_template") or ""
        assert "${" not in template
        assert "{{" not in template


def test_our_scripts_set_text_only() -> None:
    dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    for file in server.WEB.rglob("*.js"):
        script = file.read_text(encoding="utf-8")
        assert not re.findall(dangerous, script), file.name
        for drawn in re.findall(r"P\.(?:react|newPlot)\(.*", script):
            assert "showSendToCloud: false" in drawn, file.name


def test_no_file_of_ours_names_another_host() -> None:
    for file in (f for f in server.WEB.rglob("*") if f.is_file()):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(r"https?://", text), file.name


def test_every_answer_has_the_security_headers(url: str) -> None:
    for path in ("", "runs", "config", "vendor/plotly.min.js", "web/runs.js", "nothing"):
        headers = httpx.get(url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "connect-src 'self'" in policy
        assert "http" not in policy.replace("huggingface", ""), "nothing comes from elsewhere"


def test_a_space_may_frame_the_app() -> None:
    headers = dict(server._headers(in_space=True))
    assert b"x-frame-options" not in headers
    assert b"frame-ancestors 'self' https://huggingface.co" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=../../etc/passwd",
        f"gradio_api/file={ROOT}/pyproject.toml",
        "web/../server.py",
        "web/%2e%2e/server.py",
        "vendor/../../__init__.py",
        "studies/",
        "jobs.sqlite",
        "jobs/",
        "runs/../jobs.sqlite",
        "gradio_api/file=jobs.sqlite",
        "runs/../../etc/passwd",
        "docs",
        "openapi.json",
        "monitoring/summary",
    ],
)
def test_no_other_file_or_page_can_be_read(url: str, path: str) -> None:
    assert httpx.get(url + path, follow_redirects=True).status_code >= 400


def test_large_uploads_are_refused(url: str) -> None:
    files = {"files": ("plan.json", b"0" * (9 << 20))}
    assert httpx.post(url + "gradio_api/upload", files=files).status_code == 413


def test_with_a_password_strangers_see_nothing() -> None:
    bench = Bench(compare=FakeCompare())
    address, stop = run_server(server.make_app(bench, auth=("ada", "engine")))
    try:
        assert httpx.get(address + "config").status_code == 401
        ask = {
            "data": {"study": "x"},
            "component_id": 1,
            "fn_name": "pictures",
            "session_hash": "s",
        }
        assert httpx.post(address + "gradio_api/component_server", json=ask).status_code == 401
        login = httpx.post(address + "login", data={"username": "ada", "password": "no"})
        assert login.status_code == 400
    finally:
        stop()


# -- starting


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False), ("192.168.0.2", False), ("host.example", False)],
)  # fmt: skip
def test_loopback(host: str, local: bool) -> None:
    assert server.is_loopback(host) is local


@pytest.fixture
def not_served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`launch` without the server: what uvicorn would have been given."""
    served: list[dict[str, Any]] = []
    monkeypatch.setattr(server.uvicorn, "run", lambda app, **options: served.append(options))
    monkeypatch.setattr(server, "make_app", lambda bench, auth: None)
    return served


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "auth", "warned"),
    [("0.0.0.0", None, True), ("0.0.0.0", ("a", "b"), False), ("127.0.0.1", None, False)],
)
def test_beyond_loopback_without_a_password_is_loud(
    not_served: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    host: str,
    auth: Any,
    warned: bool,
) -> None:
    server.launch(host=host, port=free_port(), auth=auth)
    assert len(not_served) == 1
    assert ("WITHOUT a password" in capsys.readouterr().err) is warned


def test_a_taken_port_is_one_clear_line(not_served: list[dict[str, Any]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            EnvironmentFault, match=rf"port {port} on 127.0.0.1 .*--port {port + 1}"
        ):
            server.launch(port=port)
    assert not_served == []


def test_bad_arguments(tmp_path: Path, not_served: list[dict[str, Any]]) -> None:
    with pytest.raises(BadInput, match="port 70000 is out of range"):
        server.launch(port=70000)
    with pytest.raises(BadInput, match="no study folder"):
        server.launch(port=free_port(), study=tmp_path / "none")


def test_launch_is_public() -> None:
    assert "launch" in dqviz.__all__


def test_the_launcher_serves(tmp_path: Path) -> None:
    port = free_port()
    variables = {**os.environ, "DQVIZ_PORT": str(port), "DQVIZ_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py")],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/").status_code == 200, process)
    finally:
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert f"http://127.0.0.1:{port}" in out
    assert "WARNING" not in err


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return ready()
        except httpx.TransportError:
            time.sleep(0.2)
    return False


def test_every_page_is_behind_the_password() -> None:
    bench = Bench(compare=FakeCompare())
    address, stop = run_server(server.make_app(bench, auth=("ada", "engine")))
    try:
        for path in ("runs", "activations", "tour"):
            page = httpx.get(address + path, follow_redirects=True)
            assert "runs_jobs" not in page.text
        for name in ("runs_jobs", "runs_job", "runs_log", "runs_study", "runs_beside"):
            ask = {"data": {}, "component_id": 1, "fn_name": name, "session_hash": "s"}
            refused = httpx.post(address + "gradio_api/component_server", json=ask)
            assert refused.status_code == 401
    finally:
        stop()


def test_a_browser_calls_only_functions_that_were_given_to_it(url: str) -> None:
    for component in range(0, 120, 7):
        for name in ("preprocess", "__init__"):
            ask = {"data": {}, "component_id": component, "fn_name": name, "session_hash": "s"}
            assert httpx.post(url + "gradio_api/component_server", json=ask).status_code >= 400


def test_the_app_takes_up_what_an_earlier_one_left(
    not_served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[bool] = []
    monkeypatch.setattr("dqviz.ui.desk.Desk.wake", lambda desk: woken.append(True))
    server.launch(port=free_port())
    assert woken == [True]
