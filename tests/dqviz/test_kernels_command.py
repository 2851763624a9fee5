"""`dqviz kernels`: what runs here and why, what compilers say, and what is refused."""

from __future__ import annotations

import json

import pytest

import kernels
from dqviz.cli import main
from kernels import ahead

ROW = ahead.Row("int_linear", "w8a8", "sm_90", 150, 0, 98304, "wgmma", 800)


def test_every_operation_is_listed_with_its_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [op["name"] for op in found["ops"]] == list(kernels.ops())
    assert found["kernels"] == []
    for op in found["ops"]:
        assert "simulate" in op["backends"]
        assert ("triton" in op["backends"]) != ("triton: " in op["why"])
    assert main(["kernels"]) == 0
    assert "int_linear" in capsys.readouterr().out


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
    assert "98304" in printed.out
    assert "not yet measured on a GPU" in printed.out
    assert "compiling int_linear: w8a8" in printed.err


def test_an_unknown_target_is_bad_input_and_a_missing_compiler_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["kernels", "--target", "sm_42"]) == 2
    assert "target is 'sm_42'; use one of sm_80" in capsys.readouterr().err
    monkeypatch.setattr(ahead, "find_spec", lambda name: None)
    assert main(["kernels", "--target", "sm_90"]) == 3
    assert "triton is not installed; pip install" in capsys.readouterr().err
