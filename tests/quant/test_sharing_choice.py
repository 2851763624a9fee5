"""Which attentions share at which steps, and what that saves: from plain values alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.errors import BadInput
from quant.method_options import parse_options
from quant.schema import Window
from quant.sharing_choice import (
    EVERY_STEP,
    OutputError,
    Sharing,
    SharingOptions,
    SharingRequest,
    Similarity,
    Work,
    chosen_sharing,
    released_set,
    saving,
)

SPATIAL = tuple(f"blocks.{i}.attn1" for i in range(3))
share = st.floats(0, 1)


def similarity(cosine: list[list[float]], timesteps: tuple[float, ...]) -> Similarity:
    rows = tuple(tuple(row) for row in cosine)
    error = tuple(tuple(1 - c / 2 for c in row) for row in cosine)
    return Similarity(
        model="m",
        sampler="s",
        samples=1,
        queries=4,
        attentions=SPATIAL[: len(rows)],
        timesteps=timesteps,
        cosine=rows,
        minimum=rows,
        output_error=OutputError(map=error, output=rows),
        work=(Work(rows=8, query_key=64, scores=16, rest=80),) * len(rows),
        network=1000,
    )


@st.composite
def measured(draw: st.DrawFn) -> Similarity:
    timesteps = draw(
        st.lists(st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=8, unique=True)
    )
    count = draw(st.integers(1, 3))
    rows = [[draw(share) for _ in timesteps] for _ in range(count)]
    return similarity(rows, tuple(sorted(timesteps, reverse=True)))


def request(
    threshold: float, by: str = "similarity", mode: str = "map", **more: object
) -> SharingRequest:
    return SharingRequest(mode=mode, chosen_by=by, threshold=threshold, **more)  # type: ignore[arg-type]


def cells(sharing: Sharing, found: Similarity) -> set[tuple[str, float]]:
    return {(name, t) for t in found.timesteps for name in sharing.at(t)}


@given(measured(), share)
def test_exactly_the_cells_that_reach_the_threshold_share(
    found: Similarity, threshold: float
) -> None:
    sharing = chosen_sharing(request(threshold), found.attentions, found)
    expected = {
        (name, t)
        for name, row in zip(found.attentions, found.cosine)
        for t, cosine in zip(found.timesteps, row)
        if cosine >= threshold
    }
    assert cells(sharing, found) == expected
    for windows in sharing.attentions.values():
        assert windows
        assert all(upper.low > lower.high for upper, lower in itertools.pairwise(windows))


@given(measured(), share, share)
def test_a_higher_threshold_shares_less(found: Similarity, one: float, other: float) -> None:
    low, high = sorted((one, other))
    less, more = (chosen_sharing(request(t), found.attentions, found) for t in (high, low))
    assert cells(less, found) <= cells(more, found)
    work = dict(zip(found.attentions, found.work))
    saved = [saving(s, found.timesteps, work, found.network) for s in (less, more)]
    assert saved[0]["multiply_adds"] <= saved[1]["multiply_adds"]
    assert saved[0]["cells"] == len(cells(less, found))


def test_a_timestep_between_two_steps_belongs_to_the_nearer() -> None:
    found = similarity([[0.9, 0.1, 0.9]], (900.0, 500.0, 100.0))
    sharing = chosen_sharing(request(0.5), found.attentions, found)
    assert sharing.attentions[SPATIAL[0]] == (
        Window(low=700.0, high=1.0e9),
        Window(low=-1.0e9, high=300.0),
    )
    shared = {t: bool(sharing.at(t)) for t in (1000.0, 700.5, 700.0, 699.9, 300.0, 299.9, 0.0)}
    assert list(shared.values()) == [True, True, True, False, False, True, True]


def test_a_step_that_is_visited_twice_shares_when_both_do() -> None:
    found = similarity([[0.9, 0.9, 0.1, 0.9]], (900.0, 500.0, 500.0, 100.0))
    sharing = chosen_sharing(request(0.5), found.attentions, found)
    assert [bool(sharing.at(t)) for t in (900.0, 500.0, 100.0)] == [True, False, True]


def test_steps_and_errors_choose_too() -> None:
    found = similarity([[0.9, 0.8, 0.7]], (900.0, 500.0, 100.0))
    within = (Window(low=400, high=600),)
    sharing = chosen_sharing(request(0.0, steps=within), found.attentions, found)
    assert cells(sharing, found) == {(SPATIAL[0], 500.0)}
    # 1 - error: 0.45, 0.4, 0.35 for a shared map; 0.1, 0.2, 0.3 for a shared output
    by_error = chosen_sharing(request(0.38, "error"), found.attentions, found)
    assert cells(by_error, found) == {(SPATIAL[0], 900.0), (SPATIAL[0], 500.0)}
    of_output = chosen_sharing(request(0.15, "error", "output"), found.attentions, found)
    assert cells(of_output, found) == {(SPATIAL[0], 500.0), (SPATIAL[0], 100.0)}


@pytest.mark.parametrize(
    ("depth", "kept"),
    [(28, [*range(8), *range(22, 28)]), (14, [0, 1, 2, 3, 11, 12, 13]), (6, [0, 1, 5]), (2, [0])],
)
def test_the_released_set_scales_with_depth(depth: int, kept: list[int]) -> None:
    names = [str(i) for i in range(depth)]
    assert released_set(names) == [str(i) for i in kept]
    sharing = chosen_sharing(request(0, "released"), names, None)
    assert set(sharing.attentions.values()) == {EVERY_STEP}


def test_what_was_not_measured_here_is_bad_input() -> None:
    with pytest.raises(BadInput, match="measure_similarity"):
        chosen_sharing(request(0.5), SPATIAL, None)
    with pytest.raises(BadInput, match="another model"):
        chosen_sharing(request(0.5), ["elsewhere"], similarity([[0.5]], (1.0,)))


def test_savings_are_counted() -> None:
    work = {name: Work(rows=8, query_key=64, scores=16, rest=80) for name in SPATIAL[:2]}
    one = {SPATIAL[0]: (Window(low=0, high=500),)}
    saved = {
        mode: saving(Sharing(mode=mode, attentions=one), (900.0, 100.0), work, 1000)
        for mode in ("map", "output")
    }
    assert (saved["map"]["cells"], saved["map"]["of_cells"]) == (1, 4)
    assert saved["map"]["qk_rows"] == 4 / 32
    assert saved["map"]["multiply_adds"] == 40 / 2000
    assert saved["output"]["multiply_adds"] == 80 / 2000
    assert {s["evidence"] for s in saved.values()} == {"predicted"}


def test_options() -> None:
    assert SharingOptions().sharing_request is None
    asked = SharingOptions(sharing="map", sharing_steps=((300, 1000),)).sharing_request
    assert asked is not None
    assert asked.steps == (Window(low=300, high=1000),)
    for wrong in ({"sharing_steps": []}, {"sharing_steps": [[5, 3]]}, {"sharing_threshold": 1.1}):
        with pytest.raises(BadInput):
            SharingOptions.parse(wrong, "options")
    released = {"sharing": "map", "sharing_set": "released", "sharing_threshold": 0.5}
    with pytest.raises(BadInput, match="sharing_threshold does nothing with sharing_set=released"):
        SharingOptions.parse(released, "options")


@pytest.mark.parametrize(
    "given", [{"sharing_set": "released"}, {"sharing_threshold": 0.5}, {"sharing_steps": [[0, 9]]}]
)
def test_options_of_sharing_without_sharing_are_an_error(given):
    with pytest.raises(BadInput, match="does nothing without sharing"):
        parse_options("trdq", given)
    parse_options("trdq", given | {"sharing": "map"})
