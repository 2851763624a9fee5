"""Every Triton kernel in Triton's interpreter, on the CPU: one child process for the tests of one op.

`TRITON_INTERPRET` counts only when it is set before triton is imported, so these tests, the files of
`tests/kernels/interpreted/`, run in processes of their own; what they report is shown where one fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import kernels

ROOT = Path(kernels.__file__).parent.parent
SUITES = sorted((Path(__file__).parent / "interpreted").glob("*.py"))


def interpreted(suite: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run(
        [*command, *options, str(suite)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_kernels_compute_what_the_definition_says(suite: Path) -> None:
    done = interpreted(suite)
    assert done.returncode == 0, f"\n{done.stdout[-8000:]}{done.stderr[-2000:]}"


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_failure_in_the_child_is_a_failure_here(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def test_wrong():\n    assert 1 == 2\n")
    done = interpreted(wrong)
    assert done.returncode == 1
    assert "assert 1 == 2" in done.stdout


def test_every_op_with_a_triton_version_is_interpreted() -> None:
    ops = {p.parent.name for p in (ROOT / "kernels").glob("*/triton_impl.py")}
    assert {p.stem for p in SUITES} == ops
    assert ops == {op for op in kernels.ops() if "triton" in getattr(kernels, op).OP.versions}
