"""What every op folder must satisfy; a new one joins by existing."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import kernels

# (op, case) and, for the versions beside the definition, (op, version, case)
CASES = [(op, name) for op in kernels.ops() for name in import_module(f"kernels.{op}.cases").CASES]
VERSIONS = [
    (op, version, name)
    for op, name in CASES
    for version in import_module(f"kernels.{op}").OP.versions
    if version != "simulate"
]


def run(op: str, name: str, backend: str) -> tuple[torch.Tensor, ...]:
    return import_module(f"kernels.{op}.cases").CASES[name](backend)


def answer(op: str, name: str, version: str) -> tuple[torch.Tensor, ...] | None:
    """What a version computes; None if it refuses with its reason and the fix."""
    try:
        return run(op, name, version)
    except RuntimeError as error:
        cannot = f"{op} cannot run with backend {version}: .+"
        lacks = f"{op} of .+ has no {version} version"
        refusal = f"({cannot}|{lacks}); use --backend .+"
        if not re.fullmatch(refusal, str(error)):
            raise
        return None


def test_every_folder_is_an_op() -> None:
    folders = {p.parent.name for p in Path(kernels.__file__).parent.glob("*/__init__.py")}
    assert folders == set(kernels.ops())
    assert {op for op, _ in CASES} == folders


@pytest.mark.parametrize("op", kernels.ops())
def test_versions_exist_and_the_definition_is_among_them(op: str) -> None:
    versions = getattr(kernels, op).OP.versions
    assert versions["simulate"] == "reference"
    for version in versions:
        getattr(kernels, op).OP.version(version)


@pytest.mark.parametrize(("op", "name"), CASES, ids=lambda s: s.replace(" ", "-"))
def test_the_definition_is_finite_and_repeatable(op: str, name: str) -> None:
    first, second = run(op, name, "simulate"), run(op, name, "simulate")
    assert first
    for a, b in zip(first, second):
        assert torch.isfinite(a.double()).all()
        assert torch.equal(a, b)


@pytest.mark.parametrize(("op", "version", "name"), VERSIONS, ids=lambda s: s.replace(" ", "-"))
def test_every_version_agrees_with_the_definition_or_refuses(
    op: str, version: str, name: str
) -> None:
    got = answer(op, name, version)
    if got is None:
        return
    tolerance = getattr(kernels, op).OP.tolerance
    for a, b in zip(got, run(op, name, "simulate"), strict=True):
        assert a.dtype == b.dtype
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


def test_some_version_answers_for_every_op_that_has_one() -> None:
    """Refusing everything would pass the test above. What needs a GPU answers in `test_interpreter.py`."""
    asked = [(op, v, name) for op, v, name in VERSIONS if v != "triton"]
    answered = {(op, v) for op, v, name in asked if answer(op, name, v) is not None}
    assert answered == {(op, v) for op, v, _ in asked}
