"""Half an hour on a GPU, on the CPU: every stage runs, a cut loses one row, what is wrong is not timed, a dead process costs a row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import linears, timing, wheels, work
from benchmarks.gpu.checks import codes_compared, compared, output_checked
from benchmarks.gpu.networks import Built
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.stage import Row, Stage, stages
from benchmarks.gpu.stages import attention, ops, step, tuning
from benchmarks.gpu.supervise import supervise
from kernels.tables import COLUMNS

NEVER = float("inf")


class Cut(BaseException):
    """What ends a process in the middle of a row."""


def dry(folder: Path) -> Place:
    rows = Rows(folder)
    rows.open()
    return Place(torch.device("cpu"), rows, dry=True)


def stage(*rows: Row, minutes: float = 1.0, needs: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        STAGE=Stage(0, "Made up", "", minutes, needs), rows=lambda place: iter(rows)
    )


def row(key: str, made: list[str], seconds: float = 1.0, **found: Any) -> Row:
    return Row(key, seconds, lambda: made.append(key) or found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Rows of a whole dry run, cut once in the middle of a row and gone on with, by key."""
    folder = tmp_path_factory.mktemp("dry")
    place, chosen = dry(folder), stages()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "codebook", cut)
        with pytest.raises(Cut):
            work.work(place, chosen, NEVER)
    before = (folder / "rows.jsonl").read_bytes()
    assert place.rows.begun() == "ops/vq_linear, 256 vectors of 4, tiny fc1, m=16"
    (folder / "rows.jsonl").write_bytes(before + b'{"key":"ops/half a ro')
    with torch.no_grad():
        assert work.work(place, chosen, NEVER) == {}
    assert (folder / "rows.jsonl").read_bytes().startswith(before)
    found = list(place.rows)
    assert len({r["key"] for r in found}) == len(found)
    return {r["key"]: r for r in found}


def cut(*_: object) -> dict[str, Any]:
    raise Cut


def test_a_dry_run_does_every_row_and_says_what_it_is(whole: dict[str, dict[str, Any]]) -> None:
    counted = {n: sum(key.startswith(f"{n}/") for key in whole) for n in stages()}
    assert all(counted.values()), counted
    assert all(r["dry_run"] for r in whole.values())
    assert [key for key in whole if key.startswith("call ")] == ["call 1", "call 2"]
    assert not [r for r in whole.values() if "error" in r]
    checks = [r for key, r in whole.items() if key.startswith("correctness/")]
    assert all(r["right"] and r["compiled"] == "equal" for r in checks)


def test_its_times_come_with_their_spread_and_ratios(whole: dict[str, dict[str, Any]]) -> None:
    found = whole["ops/int_linear, tiny fc1, m=16"]
    ours = {"w8a8", "w4a8", "w8a8 e4m3", "w8a16", "w4a16"}
    assert ours | {"cuBLAS bf16", "compiled bf16"} <= set(found["times"])
    assert ours <= set(found["ratios"])
    for time in found["times"].values():
        assert 0 < time["low_us"] <= time["median_us"] <= time["high_us"]
    ratio = found["times"]["cuBLAS bf16"]["median_us"] / found["times"]["w8a8"]["median_us"]
    assert found["ratios"]["w8a8"]["cuBLAS bf16"] == pytest.approx(ratio, rel=1e-3)
    network = whole["step/32 px, 2 samples, w8a8"]
    assert set(network["ratios"]["w8a8"]) == {"bf16 compiled", "bf16"}
    assert network["difference"] < 0.05  # the same network, rounded
    assert network["memory"]["weights"] > 0
    attention = whole["step/32 px, 2 samples, w8a8, int8 attention"]
    assert attention["difference"] not in (0, network["difference"])


def test_attention_is_checked_at_its_shape_and_held_against_pytorchs(
    whole: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = whole["attention/heads of 72, 2x12"]
    assert set(found["ratios"]) == {"ours", "ours, one map"}
    assert {"SDPA", "SDPA, padded", "SDPA, one map"} <= set(found["ratios"]["ours"])
    assert all(checked["right"] for checked in found["checked"].values())
    ours = attention.custom_op.int_attention
    monkeypatch.setattr(attention.custom_op, "int_attention", lambda q, k, v: ours(q, k, v) * 1.1)
    with torch.no_grad():
        wrong = attention.attention(dry(tmp_path), attention.TINY[0])
    assert set(wrong["left_out"]) == {"ours", "ours, one map"}
    assert wrong["ratios"] == {}


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    made: list[str] = []
    place = dry(tmp_path)
    one = {"a": stage(row("a/1", made), row("a/2", made))}
    for _ in range(2):
        assert work.work(place, one, NEVER) == {}
    assert made == ["a/1", "a/2"]


def test_an_error_is_a_row_and_the_next_one_is_made(tmp_path: Path) -> None:
    made: list[str] = []
    failing = Row("a/1", 1.0, lambda: {}["no such key"])
    place = dry(tmp_path)
    assert work.work(place, {"a": stage(failing, row("a/2", made))}, NEVER) == {}
    by_key = {r["key"]: r for r in place.rows}
    assert by_key["a/1"]["error"] == "KeyError: 'no such key'"
    assert made == ["a/2"]


def test_a_number_that_json_does_not_know_is_no_row(tmp_path: Path) -> None:
    place = dry(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        place.rows.append({"key": "a/1", "value": float("nan")})
    assert list(place.rows) == []


def test_no_row_begins_that_would_end_too_late(tmp_path: Path) -> None:
    """Minutes are counted by a clock of the test's: a row takes its guess."""
    made: list[str] = []
    now = [0.0]

    def taking(key: str, seconds: float) -> Row:
        def measure() -> dict[str, Any]:
            made.append(key)
            now[0] += seconds
            return {}

        return Row(key, seconds, measure)

    rows = [taking("a/1", 40), taking("a/2", 40), taking("a/3", 15), taking("a/4", 10)]
    left = work.work(dry(tmp_path), {"a": stage(*rows)}, 60.0, clock=lambda: now[0])
    assert made == ["a/1", "a/3"]
    assert left == {"a": ["a/2", "a/4"]}


def test_a_stage_has_its_minutes_and_then_the_next_one(tmp_path: Path) -> None:
    """What the first leaves is made when every stage had its turn."""
    made: list[str] = []
    first = stage(row("a/1", made, 40), row("a/2", made, 61), minutes=1)
    second = stage(row("b/1", made, 10), minutes=1)
    assert work.work(dry(tmp_path), {"a": first, "b": second}, NEVER) == {}
    assert made == ["a/1", "b/1", "a/2"]


def test_a_stage_whose_modules_are_missing_is_left_not_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    place = dry(tmp_path)
    lacking = stage(row("a/1", made), needs=("no_such_module",))
    assert work.work(place, {"a": lacking}, NEVER) == {"a": ["a/1"]}
    assert "a: left out, not installed: no_such_module" in capsys.readouterr().err
    assert made == []


def test_what_is_wrong_is_not_timed(tmp_path: Path) -> None:
    place = dry(tmp_path)
    layer, m = linears.TINY[0]
    place.rows.append({"key": "correctness/int_linear, w8a8, gelu", "right": True})
    place.rows.append({"key": "correctness/int_linear, w4a8, gelu", "right": False})
    with torch.no_grad():
        found = ops.product(place, layer, m)
    assert "w8a8" in found["times"]
    assert found["left_out"] == {
        "w4a8": "its numbers are wrong here",
        "w4a8, groups of 128": "its numbers were not checked",
        "w8a8 e4m3": "its numbers were not checked",
        "w8a16": "its numbers were not checked",
        "w4a16": "its numbers were not checked",
    }
    assert not set(found["left_out"]) & set(found["times"])


def test_what_is_wrong_at_its_shape_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = dry(tmp_path)
    layer, m = linears.TINY[0]
    variants = (*linears.VARIANTS, linears.FLOATS, *linears.WEIGHT_ONLY)
    for variant in variants:
        key = f"correctness/{variant.op}, {variant.name}, gelu"
        place.rows.append({"key": key, "right": True})
    ours = linears.ours

    def off(given: tuple[Any, ...]) -> Callable[[], torch.Tensor]:
        return lambda: ours(given)() + (len(given[0]) == m)  # the checked rows are as many here

    monkeypatch.setattr(linears, "ours", off)
    monkeypatch.setattr(linears, "CHECKED_ROWS", 4)
    with torch.no_grad():
        found = ops.product(place, layer, m)
    assert set(found["left_out"]) == {variant.name for variant in variants}
    assert found["ratios"] == {}


def test_a_step_that_does_not_compile_is_held_against_eager_alone(tmp_path: Path) -> None:
    stand = step.Stand(dry(tmp_path), step.TINY[0])

    def failing() -> Built:
        raise RuntimeError("no compiler")

    assert stand._compiled(failing) == ({}, {"bf16 compiled": "RuntimeError: no compiler"})
    kept = Built(lambda: torch.ones(1), 4)
    assert stand._compiled(lambda: kept) == ({"bf16 compiled": kept.call}, {})


def test_a_step_whose_output_is_off_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = dry(tmp_path)
    for check in step.checks("w8a8"):
        place.rows.append({"key": f"correctness/{check}", "right": True})
    stand = step.Stand(place, step.TINY[0])
    held = {"network": None, "output": torch.ones(4)}
    monkeypatch.setattr(stand, "_held", lambda: held)
    wrong = {"w8a8": lambda: Built(lambda: torch.tensor([1.0, 1.0, 1.0, -1.0]), 4)}
    monkeypatch.setattr(step, "builders", lambda network: wrong)
    assert stand.row("w8a8") == {"left_out": {"w8a8": "its output differs from bfloat16's by 1"}}


def test_a_step_of_blocks_whose_parts_are_wrong_is_not_timed(
    tmp_path: Path, whole: dict[str, dict[str, Any]]
) -> None:
    for way in ("w4a8", "w8a8, int8 attention"):
        for wrong in step.checks(way):
            assert f"correctness/{wrong}" in whole, "it is checked under this name"
            place = dry(tmp_path / way / wrong)
            for check in step.checks(way):
                place.rows.append({"key": f"correctness/{check}", "right": check != wrong})
            told = step.Stand(place, step.TINY[0]).row(way)
            assert told == {"left_out": {way: "its numbers are wrong here"}}


def test_a_way_that_fails_stands_beside_the_others(tmp_path: Path) -> None:
    def failing() -> None:
        raise RuntimeError("no such instruction\nat line 3")

    found = timing.interleaved(dry(tmp_path), {"bad": failing, "good": lambda: None}, runs=3)
    assert found["bad"] == {"error": "RuntimeError: no such instruction"}
    assert found["good"]["runs"] == 3
    assert timing.ratio(found, "bad", "good") is None


def test_each_way_is_called_as_often_and_the_first_changes(tmp_path: Path) -> None:
    order: list[str] = []
    ways = {name: (lambda n=name: order.append(n)) for name in "abc"}
    timing.interleaved(dry(tmp_path), ways, runs=3)
    timed = "".join(order[3 * timing.WARM_UP :])
    assert timed == "abcbcacab"


def test_checks_find_what_is_wrong() -> None:
    y = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    assert compared("int_linear", y, y)["right"]
    assert not compared("int_linear", y, y * 1.0001)["right"]
    assert not compared("int_linear", y.bfloat16(), y)["right"]
    assert not compared("int_linear", torch.full_like(y, float("nan")), y)["right"]
    codes = torch.zeros(20, 100, dtype=torch.int8)
    scale, none = torch.ones(20, 1), torch.empty(0, 1)
    one_off = codes.clone()
    one_off[0, 0] = 1
    two_off = codes.clone()
    two_off[0, 0] = 2
    exact = (codes, scale, none)
    assert codes_compared("quantize_rows", exact, exact)["right"]
    assert not codes_compared("quantize_rows", (one_off, scale, none), exact)["right"]
    assert codes_compared("gelu_quantize", (one_off, scale, none), exact)["right"]
    assert not codes_compared("gelu_quantize", (two_off, scale, none), exact)["right"]
    assert not codes_compared("gelu_quantize", (codes, scale * 1.001, none), exact)["right"]


def test_an_assignment_is_right_where_codes_and_distances_are() -> None:
    codes, distances = torch.tensor([3, 0], dtype=torch.uint8), torch.tensor([0.5, 2.0])
    exact = (codes, distances)
    assert output_checked("kmeans_assign", exact, exact)["right"]
    assert not output_checked("kmeans_assign", (codes.flip(0), distances), exact)["right"]
    assert not output_checked("kmeans_assign", (codes, distances * 1.001), exact)["right"]


def test_the_first_rows_of_a_product_are_the_product_of_its_first_rows(tmp_path: Path) -> None:
    place = dry(tmp_path)
    for variant in (linears.W4A8, linears.FLOATS, *linears.WEIGHT_ONLY):
        for layer, m in linears.TINY:
            problem = linears.Problem.of(place, layer, m)
            given = linears.arguments(place, problem, variant, m, layer.k)
            first = linears.ours(linears.first_rows(given))()
            assert 0 < len(first) <= m
            assert torch.equal(linears.ours(given)()[: len(first)], first)


def test_codes_whose_zeros_moved_along_are_right() -> None:
    """code - zero is what counts."""
    codes = torch.full((2, 4), 5, dtype=torch.int8)
    scale, zero = torch.ones(2, 1), torch.zeros(2, 1)
    moved = (codes + 1, scale, zero + 1)
    assert codes_compared("quantize_rows", moved, (codes, scale, zero))["right"]


def test_only_named_stages_come_behind_the_checks() -> None:
    assert list(work.chosen_stages(["tuning"])) == ["correctness", "tuning"]
    assert list(work.chosen_stages([])) == list(stages())


def test_rows_of_another_device_are_not_joined(tmp_path: Path) -> None:
    place = dry(tmp_path)
    assert work.stranger(place) is None
    place.rows.append(work.header(place))
    assert work.stranger(place) is None
    place.rows.append({**work.header(place), "device": "another"})
    said = work.stranger(place)
    assert said is not None
    assert "has rows with device another" in said
    assert said.endswith("use another --out")


def children(statuses: list[int], rows: Rows, key: str, seen: list[int]) -> Callable[..., int]:
    """A process that dies in a row as often as `statuses` says."""

    def call(_: object) -> int:
        status = statuses[len(seen)]
        seen.append(status)
        if status not in (0, 2):
            rows.begin(key)
        return status

    return call


def test_a_process_that_dies_costs_the_row_it_died_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(tmp_path)
    rows.open()
    rows.append({"key": "a/1"})
    seen: list[int] = []
    died = children([-11, 0], rows, "a/2", seen)
    monkeypatch.setattr("benchmarks.gpu.supervise.subprocess.call", died)
    assert supervise(rows, ["worker"], NEVER, {"dry_run": True}) == 0
    assert seen == [-11, 0]
    last = list(rows)[-1]
    assert last == {
        "key": "a/2",
        "error": "the process ended in this row: signal SIGSEGV",
        "dry_run": True,
    }
    assert rows.begun() is None


def test_a_process_that_never_gets_to_a_row_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(tmp_path)
    monkeypatch.setattr("benchmarks.gpu.supervise.subprocess.call", lambda _: 1)
    assert supervise(rows, ["worker"], NEVER, {}) == 1
    assert list(rows) == []


def test_after_the_time_is_up_no_other_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(tmp_path)
    rows.open()
    died = children([1], rows, "a/1", [])
    monkeypatch.setattr("benchmarks.gpu.supervise.subprocess.call", died)
    assert supervise(rows, ["worker"], 5.0, {}, clock=lambda: 6.0) == 1


def test_without_a_gpu_it_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["work", "--out", str(tmp_path), "--until", "0"])
    assert work.main() == 3
    assert "--dry-run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def tuned(m: int, ratio: float | None, bm: int, **other: Any) -> dict[str, Any]:
    shape = {"m": m, "k": 128, "n": 64, "after": ""}
    found = {"op": "int_linear", "shape": shape, "kind": {"packed": False, "group": 0}}
    return {"key": f"tuning/{m}, {bm}", **found, "tile": {"BM": bm}, "ratio": ratio, **other}


def test_tables_hold_the_best_tile_of_a_shape_where_one_gains() -> None:
    made = [tuned(16, 1.1, 64), tuned(16, 1.3, 128), tuned(32, 1.0, 64), tuned(64, None, 64)]
    made.append(tuned(16, 1.2, 64, op="fp8_linear", kind={}))
    shape = {"m": 16, "k": 128, "n": 64, "after": ""}
    found = tuning.tables([*made, {"key": "ops/other"}])
    assert found == {
        "int_linear_tiles": [{**shape, "packed": False, "group": 0, "tile": {"BM": 128}, "ratio": 1.3}],
        "fp8_linear_tiles": [{**shape, "tile": {"BM": 64}, "ratio": 1.2}],
    }  # fmt: skip
    assert all(set(rows[0]) >= set(COLUMNS[table]) for table, rows in found.items())


def test_a_gpu_without_8_bit_floats_is_asked_for_none_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the rows are read, on a machine without a GPU."""
    said = "a GPU of compute capability 8.0 has no 8-bit floats, 8.9 and above do"
    monkeypatch.setattr("kernels.quantize_rows.custom_op.float8_obstacle", lambda *about: said)
    rows = Rows(tmp_path)
    rows.open()
    place = Place(torch.device("cpu"), rows)
    monkeypatch.setattr(work, "identity", lambda place: {})
    monkeypatch.setattr(Place, "clocks", lambda place: {})
    rows.append(work.header(place))
    assert next(iter(rows))["lacks_floats"] == said
    monkeypatch.setattr("kernels.quantize_rows.custom_op.float8_obstacle", lambda *about: None)
    found = [row.key for module in stages().values() for row in module.rows(Place(torch.device("cpu"), rows))]  # fmt: skip
    assert not [key for key in found if "fp8" in key or "e4m3" in key]
    other = Rows(tmp_path / "other")
    other.open()
    whole = [row.key for module in stages().values() for row in module.rows(Place(torch.device("cpu"), other))]  # fmt: skip
    lost = {key.partition("/")[0] for key in set(whole) - set(found)}
    assert lost == {"correctness", "step", "tuning"}
    assert all("fp8" in key or "e4m3" in key for key in set(whole) - set(found))


def test_attention_in_int8_is_timed_where_there_is_much_of_it(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    rows.open()
    found = [row.key for row in step.rows(Place(torch.device("cpu"), rows)) if "int8 attention" in row.key]  # fmt: skip
    assert found == [f"step/512 px, {n} samples, w8a8, int8 attention" for n in (8, 32)]


@pytest.mark.parametrize(
    ("wheel", "there", "installed"),
    [
        ("pydantic-2.14.3-py3-none-any.whl", None, True),
        ("pydantic-2.14.3-py3-none-any.whl", "2.11.0", True),
        ("pydantic-2.14.3-py3-none-any.whl", "2.15.1", False),
        ("huggingface_hub-2.4.0-py3-none-any.whl", "1.33.0", False),
        ("diffusers-0.42.1-py3-none-any.whl", "0.42.0", True),
        ("diffusers-0.42.1-py3-none-any.whl", "0.43.0", True),
        ("diffusers-0.42.1-py3-none-any.whl", "0.42.2", False),
        ("typing_extensions-4.16.0-py3-none-any.whl", "4.15.0rc1", True),
    ],
)
def test_what_an_image_lacks_is_installed_and_no_more(
    wheel: str, there: str | None, installed: bool
) -> None:
    name = wheels.plain(wheel.split("-")[0])
    assert bool(wheels.wanted([wheel], {name: there})) is installed


def test_everything_that_is_carried_is_pinned() -> None:
    found = wheels.pinned()
    assert set(found) == {*wheels.CARRIED, *wheels.PEERS}
    assert all("==" in pin for pin in found.values())


def test_an_image_with_torch_alone_gets_through_the_checks_and_says_what_it_lacks() -> None:
    """Stages load, and name what is missing, without anything that is carried."""
    program = """
import subprocess
import sys
LACKING = ("diffusers", "transformers", "accelerate", "pydantic", "wrapt", "safetensors", "psutil", "huggingface_hub", "torchao", "packaging")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in LACKING else found(name, *a)
from benchmarks.gpu import work
from benchmarks.gpu.stages.correctness import rows
missing = {name: module.STAGE.missing for name, module in work.stages().items()}
assert missing["correctness"] == missing["tuning"] == (), missing
assert "diffusers" in missing["step"] and "pydantic" in missing["ops"], missing
"""
    root = Path(work.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
