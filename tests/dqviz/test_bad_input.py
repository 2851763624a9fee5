"""Everything that people get wrong: exit code 2, one line that helps, and nothing written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from dqviz.cli import main
from tests.dqviz import bad_files, bad_plans, bad_requests
from tests.dqviz.spoiled import Case, Place

SUBJECTS = (bad_requests.CASES, bad_plans.CASES, bad_files.CASES)
CASES: dict[str, Case] = {name: case for cases in SUBJECTS for name, case in cases.items()}


@pytest.fixture(scope="module")
def checkpoint(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint of the tiny model."""
    out = tmp_path_factory.mktemp("checkpoints") / "rtn"
    code = main(["quantize", str(tiny_dit), "--method", "rtn", "--bits", "w4a8", "--out", str(out)])
    assert code == 0
    return out


def snapshot(folder: Path) -> dict[str, bytes]:
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return {str(f): f.read_bytes() for f in files if f.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str,
    tiny_dit: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command_line, wanted = CASES[name]
    argv = command_line(Place(tiny_dit, checkpoint, tmp_path))
    before = snapshot(tmp_path)
    capsys.readouterr()

    code = main(argv)

    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("dqviz: ")
    for part in wanted:
        assert part in printed.err
    assert snapshot(tmp_path) == before


def test_no_two_cases_have_one_name() -> None:
    assert len(CASES) == sum(map(len, SUBJECTS))
