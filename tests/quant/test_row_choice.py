"""Which rows are looked at: the same for every way to cut samples into batches."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quant.row_choice import RowChoice, quotas
from quant.schema import Sample


def choice_of(n: int, absmax: int, kept: int, steps: int = 5) -> RowChoice:
    samples = tuple(Sample(seed=70 + i, class_id=0) for i in range(n))
    return RowChoice(samples, 0, 16, absmax, np.full((steps, 2), kept))


def picked(choice: RowChoice, cuts: list[int], step: int, tokens: int) -> dict[str, set]:
    """Everything chosen at a step over a cut into batches, rows counted over all samples."""
    bounds = [0, *sorted(set(cuts)), len(choice.samples)]
    found: dict[str, set] = {"histogram": set(), "absmax": set(), "kept": set()}
    for first, end in itertools.pairwise(bounds):
        if end > first:
            chosen = choice.chosen(step, first, end - first, tokens)
            shift = first * tokens
            found["histogram"] |= {i + shift for i in chosen.histogram.tolist()}
            for what in ("absmax", "kept"):
                rows = (getattr(chosen, what) + shift).tolist()
                found[what] |= set(zip(rows, getattr(chosen, f"{what}_slots").tolist()))
    return found


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(1, 50),
    st.integers(0, 4),
    st.lists(st.integers(1, 8), max_size=4),
)
def test_rows_do_not_depend_on_batches(n, absmax, kept, tokens, step, cuts):
    choice = choice_of(n, absmax, kept)
    one = picked(choice, [], step, tokens)
    assert picked(choice, [c for c in cuts if c < n], step, tokens) == one
    assert len(one["histogram"]) == n * min(16, tokens)
    for what, wanted in (("absmax", absmax), ("kept", kept)):
        slots = sorted(slot for _, slot in one[what])
        assert slots == list(range(choice.filled(tokens, wanted))), (
            "every slot once, from the first"
        )
        rows = [row for row, _ in one[what]]
        assert len(rows) == len(set(rows)), "no row twice while there are others"


@given(st.integers(1, 700), st.integers(1, 60), st.integers(1, 2))
def test_quotas_are_equal_and_within_the_total(total, steps, branches):
    quota = quotas(total, steps, branches)
    assert quota.shape == (steps, branches)
    assert quota.sum() <= total
    assert quota.max() - quota.min() <= (0 if total >= steps * branches else 1)
    assert quota.sum() > total - steps * branches
    assert quota.sum() == total or total >= steps * branches


def test_another_sample_or_step_has_another_order():
    choice = choice_of(2, 4, 4)
    one = choice.chosen(0, 0, 1, 1000).histogram.tolist()
    assert choice.chosen(1, 0, 1, 1000).histogram.tolist() != one
    assert choice.chosen(0, 1, 1, 1000).histogram.tolist() != one
