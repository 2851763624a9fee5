"""`dqviz kernels`: what runs here and why, what compilers say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

import kernels
from dqviz.cli import main
from dqviz.request import RESIDENCIES
from kernels import ahead, tables
from kernels.int_linear import Residency

ROW = ahead.Row("int_linear", "w8a8", "sm_90", 150, 0, 98304, "wgmma", 800)


def test_every_operation_is_listed_with_its_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [op["name"] for op in found["ops"]] == list(kernels.ops())
    assert found["kernels"] == []
    assert set(found["fused"]) < set(kernels.ops())
    assert tuple(found["residency"]) == get_args(Residency) == RESIDENCIES
    for op in found["ops"]:
        assert "simulate" in op["backends"]
        assert ("triton" in op["backends"]) != ("triton: " in op["why"])
    assert main(["kernels"]) == 0
    printed = capsys.readouterr().out
    assert "int_linear" in printed
    assert "GELU, codes of fc2" in printed
    assert "expanded in every call" in printed


def test_a_table_that_auto_cannot_read_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DQVIZ_CONFIGS", str(tmp_path))
    path = tables.file(tmp_path, "cpu-any", "int_linear")
    path.parent.mkdir()
    path.write_text("[]", encoding="utf-8")
    assert main(["kernels", "--json"]) == 0
    found = {op["name"]: op["why"] for op in json.loads(capsys.readouterr().out)["ops"]}
    assert f"auto: stops, {path} is no table of measured times" in found["int_linear"]
    assert str(path) not in found["quantize_rows"]


def test_a_target_gives_a_row_for_every_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ahead.Build("w8a8", None, {})
    monkeypatch.setattr(ahead, "obstacle", lambda target: None)
    monkeypatch.setattr(ahead, "builds", lambda: iter([("int_linear", build)]))
    monkeypatch.setattr(ahead, "compiled", lambda op, build, target: ROW)
    assert main(["kernels", "--target", "sm_90", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["kernels"]
    assert row == {**ROW._asdict(), "faults": [], "evidence": "predicted"}
    assert main(["kernels", "--target", "sm_90"]) == 0
    printed = capsys.readouterr()
    head, values = (line.split() for line in printed.out.splitlines()[:2])
    assert dict(zip(head, values, strict=True)) == {
        "op": "int_linear",
        "config": "w8a8",
        "registers": "150",
        "spills": "0",
        "shared_bytes": "98304",
        "mma": "wgmma",
        "instructions": "800",
        "faults": "-",
    }
    assert "not yet measured on a GPU" in printed.out
    assert "compiling int_linear: w8a8" in printed.err


def test_faults_and_a_missing_matrix_instruction_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROW._replace(spills=8, mma="")
    monkeypatch.setattr(ahead, "obstacle", lambda target: None)
    monkeypatch.setattr(
        ahead, "builds", lambda: iter([("int_linear", ahead.Build("w8a8", None, {}))])
    )
    monkeypatch.setattr(ahead, "compiled", lambda op, build, target: row)
    assert main(["kernels", "--target", "sm_90"]) == 0
    printed = capsys.readouterr().out.splitlines()[1]
    assert "missing" in printed.split()
    assert printed.endswith("8 bytes spilled; no matrix instruction")
    monkeypatch.setattr(ahead, "compiled", lambda op, build, target: ROW._replace(mma=None))
    assert main(["kernels", "--target", "sm_90"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[5] == "-"


def test_an_unknown_target_is_bad_input_and_a_missing_compiler_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["kernels", "--target", "sm_42"]) == 2
    assert "target is 'sm_42'; use one of sm_80" in capsys.readouterr().err
    monkeypatch.setattr(ahead, "find_spec", lambda name: None)
    assert main(["kernels", "--target", "sm_90"]) == 3
    assert "triton is not installed; pip install" in capsys.readouterr().err
