"""Seconds from measured tables: of measured shapes what was measured, between them in proportion, beyond them at the best rate."""

from __future__ import annotations

import json
from itertools import pairwise
from math import fsum, sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import tables
from quant.errors import BadInput
from quant.latency import Floor, Measured, Times, latencies, latency_of
from quant.roofline import DEVICES, Attention, attention_seconds, site_seconds
from quant.schema import parse_bits

NAME = "cpu-avx512-vnni"  # whose table comes along
BLOCK = ((1152, 1152),) * 4 + ((1152, 4608), (4608, 1152))  # q, k, v, out, fc1, fc2 of DiT-XL/2


@pytest.fixture(autouse=True)
def _no_table_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))


def recorded() -> list[dict[str, Any]]:
    return list(tables.read(tables.file(tables.PACKAGED, NAME, "int_linear"))["rows"])


def row(m: int, k: int, n: int, **other: Any) -> dict[str, Any]:
    """Of a table: ten operations a second in float32, twice as many with integers."""
    seconds = 2 * m * k * n / 10
    made = {"weight_bits": 8, "act_bits": 8, "corrected": True, "ratio": 2.0}
    ways = {"fp32": seconds, "simulate": seconds, "integer": seconds / 2}
    return {"m": m, "k": k, "n": n, **made, **{f"seconds_{w}": t for w, t in ways.items()}, **other}


def device(*rows: dict[str, Any]) -> Measured:
    about = {"cpu": "abacus", "cores": 1, "torch": "2.0", "date": "2026-01-01"}
    return Measured("cpu-abacus", (Times.of({**about, "rows": rows}),))


def test_a_block_takes_the_sum_of_its_rows() -> None:
    """Of the recorded table, at 256 rows: float32, and w4a8 by the backend that was faster."""
    own = latency_of(NAME)
    for bits, names in ((None, ("fp32",)), (parse_bits("w4a8"), ("integer", "simulate"))):
        expected = []
        for shape in BLOCK:
            rows = [r for r in recorded() if (r["m"], r["k"], r["n"]) == (256, *shape)]
            if bits is not None:
                rows = [r for r in rows if r["weight_bits"] == 4 and not r["corrected"]]
            fast = names[0] if bits is None or rows[0]["ratio"] >= tables.WORTH else names[1]
            expected.append(min(r[f"seconds_{fast}"] for r in rows))
        found = fsum(own.site_seconds(256, k, n, bits) for k, n in BLOCK)
        assert found == pytest.approx(fsum(expected), rel=1e-12)


SIDE = st.integers(1, 4096)
SECONDS = st.lists(st.floats(1e-4, 1e-2), min_size=3, max_size=3)


@given(st.lists(SECONDS, min_size=3, max_size=3), SIDE, SIDE, SIDE)
def test_fewer_bits_are_no_slower_where_the_table_says_so(
    taken: list[list[float]], m: int, k: int, n: int
) -> None:
    """Of any shape, near or far, where integers of fewer bits were never slower."""
    rows = []
    for (rows_of, *sides), seconds in zip(((64, 64, 64), (128, 96, 64), (512, 256, 256)), taken):
        few, some, most = sorted(seconds)
        whole = {"seconds_fp32": most, "seconds_simulate": most}
        eight = {**whole, "seconds_integer": some, "corrected": True}
        four = {**whole, "seconds_integer": few, "weight_bits": 4, "corrected": False}
        rows += [row(rows_of, *sides, **eight), row(rows_of, *sides, **four)]
    own = device(*rows)
    found = [own.site_seconds(m, k, n, parse_bits(b)) for b in ("w4a8", "w8a8", "w8a16")]
    assert all(few <= more * (1 + 1e-9) for few, more in pairwise(found))
    assert found[-1] == own.site_seconds(m, k, n), "a weight alone multiplies in float32"


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        ("w8a8", (8, 8, True)),  # weights with zeros of their own are corrected at 8 bits
        ("w8a7", (8, 7, True)),
        ("w8a4", (8, 7, True)),
        ("w4a8", (4, 8, False)),
        ("w3a6", (4, 8, False)),
        ("w5a8", (8, 8, False)),
        ("w4a16", "fp32"),
    ],
)
def test_bits_that_were_not_measured_are_those_that_hold_them(bits: str, kind: object) -> None:
    (times,) = latency_of(NAME).times
    assert times.kind(parse_bits(bits)) == kind


def test_what_is_not_exact_on_a_processor_is_simulated_there() -> None:
    """Without 8-bit dot products no row has eight bits on both sides."""
    own = device(row(64, 64, 64, act_bits=7), row(64, 64, 64, weight_bits=4))
    full = own.site_seconds(64, 64, 64)
    assert own.site_seconds(64, 64, 64, parse_bits("w8a8")) == full
    assert own.site_seconds(64, 64, 64, parse_bits("w8a7")) == full / 2
    assert own.site_seconds(64, 64, 64, parse_bits("w4a8")) == full / 2


@given(st.integers(64, 256), st.integers(64, 128), st.integers(64, 128))
def test_at_one_rate_every_shape_takes_its_operations(m: int, k: int, n: int) -> None:
    own = device(row(64, 64, 64), row(128, 64, 64), row(256, 128, 128))
    assert own.site_seconds(m, k, n) == pytest.approx(2 * m * k * n / 10, rel=1e-9)


def test_between_two_shapes_logarithms_are_straight() -> None:
    own = device(row(64, 64, 64, seconds_fp32=1.0), row(128, 64, 64, seconds_fp32=4.0))
    assert own.site_seconds(round(64 * sqrt(2)), 64, 64) == pytest.approx(2.0, rel=0.02)
    assert own.site_seconds(256, 64, 64) == pytest.approx(8.0), "beyond the last in proportion"
    assert own.site_seconds(64, 64, 64) == 1.0


def test_far_shapes_and_attention_take_the_best_rate_and_are_counted() -> None:
    own = device(row(64, 64, 64), row(64, 64, 128, seconds_fp32=64 * 64 * 128 / 10))
    assert own.site_seconds(4096, 64, 64) == 2 * 4096 * 64 * 64 / 20
    one = Attention("a", queries=16, keys=8, seen=8, channels=4)
    assert own.attention_seconds(one, 3) == 3 * 4 * 16 * 8 * 4 / 20
    said = own.remark([(shape, {None}) for shape in ((64, 64, 64), (100, 64, 64), (4096, 64, 64))])
    assert "2 of 3 layers" in said
    assert "floor" not in said, "a larger shape may be faster than any that was measured"


def test_layers_are_near_at_the_bits_that_they_have() -> None:
    own = device(row(64, 64, 64, weight_bits=4, corrected=False), row(4096, 64, 64))
    shape, far = (64, 64, 64), {parse_bits("w8a8")}
    assert "1 of 1 layers" in own.remark([(shape, {None, parse_bits("w4a8")})])
    assert "0 of 1 layers" in own.remark([(shape, far)]), "8 bits were measured elsewhere alone"
    assert "1 of 2 layers" in own.remark([(shape, {None}), (shape, {None, *far})])


def test_a_floor_is_that_of_the_data_sheet() -> None:
    own, peaks = latency_of("h200"), DEVICES["h200"]
    bits, one = parse_bits("w4a8"), Attention("a", 64, 64, 64, 64)
    assert isinstance(own, Floor)
    assert own.site_seconds(512, 64, 96, bits) == site_seconds(peaks, 512, 64, 96, bits)
    assert own.attention_seconds(one, 2) == attention_seconds(peaks, one, 2)
    assert own.remark([(1, 1, 1)]) == ""
    assert "a floor" in own.said


def test_devices_are_those_of_sheets_and_of_tables(tmp_path: Path) -> None:
    write(tmp_path, "cpu-abacus", [row(64, 64, 64)])
    gpu = {name: x for name, x in row(64, 64, 64).items() if not name.startswith("seconds_")}
    write(tmp_path, "sm_90", [gpu])
    assert list(latencies()) == [*DEVICES, "cpu-abacus", NAME]
    own = latency_of("cpu-abacus")
    assert "abacus, 1 thread" in own.title
    assert "float32" in own.said
    assert "2026-01-01" in own.said
    with pytest.raises(BadInput, match=rf"unknown device 'abacus'.*h200, cpu-abacus, {NAME}"):
        latency_of("abacus")
    with pytest.raises(BadInput, match="nothing was measured of fp8"):
        own.site_seconds(64, 64, 64, parse_bits("fp8"))


def test_the_table_of_a_user_goes_first_and_that_which_comes_along_after_it(tmp_path: Path) -> None:
    """A model that was not tuned is predicted as before another one was."""
    before, bits = latency_of(NAME), [None, parse_bits("w8a8"), parse_bits("w4a8")]
    other, one = (256, 1152, 1152), Attention("a", 64, 64, 64, 64)
    alone = [before.site_seconds(*other, b) for b in bits]
    write(tmp_path, NAME, [row(64, 64, 64)])
    own = latency_of(NAME)
    assert own.site_seconds(64, 64, 64) == row(64, 64, 64)["seconds_fp32"]
    assert [own.site_seconds(*other, b) for b in bits] == alone
    assert own.attention_seconds(one) == before.attention_seconds(one), "at the best rate of all"
    assert "2 of 3 layers" in own.remark([((m, 64, 64), {None}) for m in (64, 9999)] + [(other, {None})])  # fmt: skip
    assert "AMD EPYC, 2 threads" in own.title
    assert "abacus, 1 thread;" in own.title
    assert "2026-01-01" in own.said
    assert "2026-11" in own.said


def test_a_broken_table_is_left_out_and_one_line_says_which(tmp_path: Path) -> None:
    path = write(tmp_path, "cpu-abacus", [row(64, 64, 64), {"seconds_fp32": 1.0}])
    skipped: list[str] = []
    assert list(latencies(skipped)) == [*DEVICES, NAME]
    assert skipped == [
        f"{path} is no table of measured times (row 2 lacks 'm'); delete it, and measure anew: dqviz bench --tune"
    ]
    with pytest.raises(BadInput, match="row 2 lacks 'm'"):
        latency_of("cpu-abacus")
    path.write_text("{")
    assert list(latencies()) == [*DEVICES, NAME], "a page lists the others"
    assert latency_of("h200"), "what is known without it is not held up"


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = tables.file(folder, name, "int_linear")
    path.parent.mkdir()
    about = {"cpu": "abacus", "cores": 1, "torch": "2.0", "date": "2026-01-01"}
    path.write_text(json.dumps({**about, "rows": rows}), encoding="utf-8")
    return path
