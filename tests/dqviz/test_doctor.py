"""Doctor: what is here, what is missing, and whose packages would be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dqviz import doctor, provenance
from dqviz.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_every_finding_is_complete() -> None:
    found = doctor.checks()
    names = [check["name"] for check in found]
    assert {"python", "quant", "kernels", "torch", "device", "memory", "disk", "models"} <= set(
        names
    )
    assert {"studies folder", "chromium", "triton", "cores"} <= set(names)
    assert len(names) == len(set(names))
    for check in found:
        assert set(check) == {"name", "ok", "detail", "fix", "required"}
        assert check["ok"] or check["fix"]
        assert check["detail"]
    assert doctor.healthy(found)


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is True
    assert printed["checks"]


def test_what_is_required_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK", 2**80)
    found = {check["name"]: check for check in doctor.checks()}
    assert not found["disk"]["ok"]
    assert "DQVIZ_HOME" in found["disk"]["fix"]
    assert not doctor.healthy(list(found.values()))


def test_an_unwritable_studies_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("DQVIZ_HOME", str(file / "below"))
    found = {check["name"]: check for check in doctor.checks()}
    assert not found["studies folder"]["ok"]
    assert "DQVIZ_HOME" in found["studies folder"]["fix"]


def test_ours_are_ours() -> None:
    assert provenance.foreign() == []
    assert provenance.origin("json").ours is False
    assert provenance.origin("no_such_package_at_all").path is None


def shadowed(tmp_path: Path, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where a foreign package of that name comes first."""
    package = tmp_path / name
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("raise RuntimeError('a foreign package was imported')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "dqviz", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize("name", ["kernels", "quant"])
def test_a_foreign_package_stops_everything_at_once(tmp_path: Path, name: str) -> None:
    done = shadowed(tmp_path, name, "models")
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"'{name}' would be imported from {tmp_path / name}" in line
    assert f"pip uninstall {name}" in line


def test_doctor_reports_a_foreign_package(tmp_path: Path) -> None:
    done = shadowed(tmp_path, "kernels", "doctor", "--json")
    assert done.returncode == 3, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["quant"]["ok"]
    assert not found["kernels"]["ok"]
    assert str(tmp_path) in found["kernels"]["detail"]
    assert "pip uninstall kernels" in found["kernels"]["fix"]
