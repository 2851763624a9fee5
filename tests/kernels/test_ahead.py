"""Every Triton kernel compiled for GPUs that are not here: registers, spills, shared memory, instructions.

Held to the table that came with the repository, by the version of Triton that made it. Nothing runs: whether
numbers are right is for `test_interpreter.py`, and how fast it is for a GPU.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from kernels import ahead
from kernels.ahead import TARGETS, Row

ROOT = Path(ahead.__file__).parent.parent
DRIFT = 0.05  # share by which the number of instructions may differ
# Spills are forbidden where they were never needed; the others report them.
FREE_OF_SPILLS = ("sm_80", "sm_89", "sm_90")


def installed() -> str:
    """The version of Triton here, "" where there is none."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return ""


def compiled(target: str) -> list[Row]:
    """The rows of a target, from a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "kernels.ahead", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Row(**row) for row in json.loads(done.stdout)]


def complaints(found: list[Row], expected: list[Row]) -> list[str]:
    """Where the rows of a target are worse than they may be, or differ from the stored ones."""
    known = {(row.op, row.config, row.target): row for row in expected}
    wrong = []
    for row in found:
        where = f"{row.op}, {row.config}, {row.target}"
        faults = row.faults() if row.target in FREE_OF_SPILLS else row._replace(spills=0).faults()
        wrong += [f"{where}: {fault}" for fault in faults]
        before = known.pop((row.op, row.config, row.target), None)
        if expected and before is None:
            wrong.append(f"{where}: not in the table")
        elif before and abs(row.instructions / before.instructions - 1) > DRIFT:
            wrong.append(f"{where}: {row.instructions} instructions, stored {before.instructions}")
    return wrong + [f"{', '.join(key)}: in the table, and no longer compiled" for key in known]


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_as_well_as_it_did(target: str) -> None:
    reason = ahead.obstacle(target)
    if reason:
        pytest.skip(reason)
    expected = [row for row in ahead.stored().get(installed(), []) if row.target == target]
    wrong = complaints(compiled(target), expected)
    assert not wrong, "\n".join([*wrong, "if it is meant: python -m kernels.ahead --write"])


def test_the_version_that_is_pinned_has_a_table_without_faults() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = lock.split("triton==")[1].split(";")[0].strip()
    rows = ahead.stored()[pinned]
    assert {row.target for row in rows} == set(TARGETS)
    assert not complaints(rows, rows)


def test_the_newest_table_is_that_of_the_newest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for older, newer in (("3.9.1", "3.10.0"), ("3.8.0rc1", "3.8.0"), ("3.7.1", "3.7.1+git1")):
        tables: dict[str, list[Row]] = {newer: [], older: []}
        monkeypatch.setattr(ahead, "stored", lambda tables=tables: tables)
        assert ahead.newest()[0] == newer


def test_a_matrix_instruction_counts_only_for_its_own_numbers() -> None:
    for row in ahead.newest()[1]:
        if row.mma:
            kind = TARGETS[row.target]
            patterns = {name: getattr(kind, name) for name in ("int8", "half", "float8")}
            found = {name for name, said in patterns.items() if said and re.search(said, row.mma)}
            floats = "a16" in row.config or "a32" in row.config
            integers = (row.op == "int_linear" and not floats) or "int8" in row.config
            wanted = "float8" if row.op == "fp8_linear" else "int8" if integers else "half"
            assert found == {wanted}, row


def test_8_bit_floats_are_compiled_where_there_are_some() -> None:
    rows = [row for row in ahead.newest()[1] if "e4m3" in row.config]
    for op in ("fp8_linear", "quantize_rows"):
        assert {row.target for row in rows if row.op == op} == {"sm_89", "sm_90", "sm_100"}


def test_sums_of_8_bit_floats_are_added_in_float32_step_by_step() -> None:
    """A compiler that folds these additions into the products has none for the 64 outputs of a thread."""
    rows = {(r.config, r.target): r.instructions for r in ahead.newest()[1] if r.op == "fp8_linear"}
    for target in ("sm_89", "sm_90"):
        assert rows["e4m3", target] >= rows["e4m3, one long sum", target] + 64


def test_each_way_of_getting_worse_is_seen() -> None:
    row = next(r for r in ahead.newest()[1] if r.mma and r.target == "sm_90")
    where = f"{row.op}, {row.config}, sm_90"
    for worse, said in (
        ({"spills": 8}, "8 bytes spilled"),
        ({"shared_bytes": 300000}, "300000 bytes of shared memory, 232448 at most"),
        ({"mma": ""}, "no matrix instruction"),
        ({"instructions": 2 * row.instructions}, f"{2 * row.instructions} instructions, stored"),
    ):
        (line,) = complaints([row._replace(**worse)], [row])
        assert line.startswith(f"{where}: {said}")
    assert complaints([row], []) == []
    assert complaints([row._replace(config="other")], [row]) == [
        f"{row.op}, other, sm_90: not in the table",
        f"{where}: in the table, and no longer compiled",
    ]


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="target is 'sm_42'; use one of sm_80, sm_89"):
        ahead.obstacle("sm_42")
