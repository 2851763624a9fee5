"""Every probe keeps the promises of `quant.probes`; alpha and rotation say what the methods themselves find."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant import cards
from quant.errors import BadInput, Cancelled
from quant.method_options import parse_options
from quant.probes import MODEL, MOST_BYTES, list_probes, load_probe
from quant.recording import FIELDS
from quant.schema import parse_bits

KEYS = tuple(list_probes())
BITS = parse_bits("w4a4")
STEPS = 4


@pytest.fixture(scope="module")
def tiny(tiny_dit: Path) -> dict[str, Any]:
    """A model with its calibration."""
    from quant.calibration import CalibrationOptions, calibrate
    from quant.loading import load_model

    model = load_model(str(tiny_dit))
    samples, sampler = model.samples(range(40, 44)), model.sampler(STEPS)
    return {
        "model": model,
        "samples": samples,
        "sampler": sampler,
        "seen": calibrate(model, samples, sampler, CalibrationOptions(reservoir=96)),
    }


def measured(tiny: dict[str, Any], key: str, method: str, on_step: Any = None, **options: Any) -> Any:  # fmt: skip
    return load_probe(key).measure(
        tiny["model"],
        tiny["seen"] if list_probes()[key].needs_statistics else None,
        tiny["sampler"],
        tiny["samples"],
        method=method,
        bits=BITS,
        options=parse_options(method, options),
        on_step=on_step,
    )


def notes_of(tiny: dict[str, Any], method: str, **options: Any) -> dict[str, dict[str, Any]]:
    """What the method says that it chose, by site."""
    from quant.plans import uniform_plan
    from quant.quantization import quantize

    plan = uniform_plan(tiny["model"], BITS, sampler=tiny["sampler"])
    return quantize(tiny["model"], method, plan, options, tiny["seen"]).notes  # type: ignore[return-value]


def options_of(method: str) -> set[str]:
    return {option.name for option in cards.methods()[method].options}


# -- every probe


def test_probes_are_found_by_existing_and_listed_without_torch() -> None:
    assert {"alpha", "rotation"} <= set(KEYS)
    assert set(list_probes("rtn")) == set()
    assert "rotation" not in list_probes("viditq")
    code = "import sys; from quant.probes import list_probes; assert list_probes(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("key", KEYS)
def test_a_card_names_what_exists(key: str) -> None:
    card, module = list_probes()[key], load_probe(key)
    assert card.key == key
    assert card == module.CARD
    assert set(card.methods) <= set(cards.methods())
    assert set(card.needs) <= {*FIELDS, MODEL}
    assert "https://arxiv.org/abs/" in (module.__doc__ or "")
    parameters = inspect.signature(module.measure).parameters
    assert list(parameters) == ["model", "seen", "sampler", "samples", "method", "bits", "options", "on_step"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_result_is_small_finite_json_and_cancelling_stops_it(
    key: str, tiny: dict[str, Any]
) -> None:
    method = list_probes()[key].methods[0]
    options = {"windows": 1, "block": 8} if "block" in options_of(method) else {}
    steps: list[tuple[int, int]] = []
    found = measured(tiny, key, method, lambda done, total: steps.append((done, total)), **options)
    assert len(json.dumps(found, allow_nan=False)) < MOST_BYTES / 4
    assert steps[-1][0] == steps[-1][1], "it says when it is done"
    assert [s[0] for s in steps] == sorted(s[0] for s in steps)

    def stop(done: int, total: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        measured(tiny, key, method, stop, **options)


def test_an_unknown_probe_names_the_nearest() -> None:
    with pytest.raises(BadInput, match="alpha"):
        load_probe("alpa")


# -- alpha


@pytest.fixture(scope="module")
def viditq(tiny: dict[str, Any]) -> Any:
    return measured(tiny, "alpha", "viditq")


@pytest.fixture(scope="module")
def trdq(tiny: dict[str, Any]) -> Any:
    return measured(tiny, "alpha", "trdq", windows=2)


def least(found: Any, kinds: tuple[str, ...]) -> float:
    """Least error of the ways that a search over 0, 0.1 .. 0.9 tries."""
    each = [found[k]["error"] for k in kinds]
    return min(e if isinstance(e, float) else min(e[:10]) for e in each)


def agrees_with_viditq(probed: Any, notes: dict[str, dict[str, Any]], kinds: tuple[str, ...]) -> bool:  # fmt: skip
    return all(
        np.isclose(least(e["windows"][0], kinds), notes[e["sites"][0]]["error"], rtol=1e-4)
        for e in probed["inputs"]
    )


def test_the_least_error_of_the_curves_is_what_vidit_q_chooses(
    viditq: Any, tiny: dict[str, Any]
) -> None:
    notes = notes_of(tiny, "viditq")
    ways = ("plain", "rotate", "scale", "both")
    assert agrees_with_viditq(viditq, notes, ways)
    # Broken on purpose: a curve of another statistic than the method takes.
    assert not agrees_with_viditq(measured(tiny, "alpha", "viditq", act_stat="first"), notes, ways)
    assert len(viditq["windows"]) == 1
    assert len(viditq["inputs"]) == 8


def test_a_searched_statistic_takes_the_best_at_every_alpha(
    viditq: Any, tiny: dict[str, Any]
) -> None:
    searched = measured(tiny, "alpha", "viditq", act_stat="search")
    for one, all_ in zip(viditq["inputs"], searched["inputs"]):
        for kind in ("scale", "both"):
            assert np.all(np.array(all_["windows"][0][kind]["error"]) <= np.array(one["windows"][0][kind]["error"]))  # fmt: skip


def test_tr_dq_has_curves_of_every_window_that_agree_with_what_it_chooses(
    trdq: Any, tiny: dict[str, Any]
) -> None:
    notes = notes_of(tiny, "trdq", windows=2)
    assert trdq["rotation"] == "blocks"
    assert [w["steps"] for w in trdq["windows"]] == [[0, 1], [2, 3]]
    assert trdq["windows"][0]["low"] == trdq["windows"][1]["high"], "half-open, without a gap"
    for entry in trdq["inputs"]:
        for found, said in zip(entry["windows"], notes[entry["sites"][0]]["windows"]):
            assert np.isclose(least(found, ("both",)), said["error"], rtol=1e-4)


def test_both_sides_make_the_error_that_each_alone_makes(viditq: Any) -> None:
    """Rounding both costs about what rounding each costs: no side is counted twice or left out."""
    for entry in viditq["inputs"]:
        found = entry["windows"][0]["plain"]
        whole, parts = found["error"], found["weight"] + found["activation"]
        assert 0.5 * parts < whole < 1.5 * parts
        assert min(found["weight"], found["activation"]) > 0


# -- rotation


@pytest.fixture(scope="module")
def rotation(tiny: dict[str, Any]) -> Any:
    return measured(tiny, "rotation", "trdq", windows=2, block=32)


def keeps_the_least(window: dict[str, Any]) -> bool:
    return all(p[k] == min(p) for p, k in zip(window["peaks"], window["kept"]))


def windows_of(found: Any) -> list[dict[str, Any]]:
    return [w for e in found["inputs"] for w in e["windows"]]


def test_what_the_search_kept_is_the_least_peak(rotation: Any) -> None:
    every = windows_of(rotation)
    assert all(keeps_the_least(w) for w in every)
    assert any(w["kept"][0] > 0 for w in every)
    broken = {**every[0], "kept": [len(every[0]["peaks"][0]) - 1, every[0]["kept"][1]]}
    assert not keeps_the_least(broken), "keeping every factor tried is another rotation"


def test_the_second_search_begins_where_the_permutation_left_it(rotation: Any) -> None:
    for window in windows_of(rotation):
        first, second = window["peaks"]
        assert np.isclose(second[0], first[window["kept"][0]], rtol=1e-4)


def test_the_permutation_evens_the_blocks(rotation: Any) -> None:
    def spread(values: list[float]) -> float:
        return float(np.std(values) / np.mean(values))

    wide = [w["block_absmax"] for w in windows_of(rotation) if len(w["block_absmax"]["before"]) > 1]
    assert wide
    before, after = ([spread(w[key]) for w in wide] for key in ("before", "after"))
    assert np.median(after) < 0.5 * np.median(before)
    assert all(np.isclose(np.mean(w["after"]), np.mean(w["before"]), rtol=1e-3) for w in wide)


def test_the_rotation_looked_at_is_the_methods_own(rotation: Any, tiny: dict[str, Any]) -> None:
    notes = notes_of(tiny, "trdq", windows=2, block=32)
    for entry in rotation["inputs"]:
        for found, said in zip(entry["windows"], notes[entry["sites"][0]]["windows"]):
            assert found["alpha"] == said["alpha"]
            assert np.isclose(found["ways"]["greedy"]["error"], said["error"], rtol=1e-4)


def test_a_hadamard_matrix_stands_beside_it_with_what_it_costs(rotation: Any) -> None:
    import kernels

    for entry in rotation["inputs"]:
        for window in entry["windows"]:
            ways = window["ways"]
            assert ways["hadamard"]["multiply_adds"] == kernels.hadamard.cost(entry["channels"])
            assert ways["greedy"]["multiply_adds"] == 2 * window["block"]
            assert ways["plain"]["multiply_adds"] == 0
            assert all(w["psi"] <= w["psi_p99"] for w in ways.values())
