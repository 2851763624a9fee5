"""Seeds as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.errors import BadInput
from quant.seeds import disjoint, parse_seeds


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20, unique=True))
def test_seed_lists_come_back_in_order(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == tuple(seeds)


def test_seed_ranges():
    assert parse_seeds("0-3,8, 10-11") == (0, 1, 2, 3, 8, 10, 11)


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "7-3", "1,1", "0-4,2", "1.5", "0-99999999"])
def test_bad_seeds_are_refused(text):
    with pytest.raises(BadInput, match="seed"):
        parse_seeds(text)


def test_seeds_that_were_tuned_on_are_not_reported_on():
    disjoint(range(4), range(4, 8), "calibration", "report")
    with pytest.raises(BadInput, match="share seed 3"):
        disjoint(range(4), range(3, 8), "calibration", "report")
