"""Costs of a typical sample: one that costs a hundred times what others do decides nothing by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.sensitivity.cells import Cell, Row
from quant.typical_costs import typical_costs

COSTS = st.floats(1e-6, 1e3)


def rows(costs: np.ndarray) -> list[Row]:
    """Of costs [cells, n]."""
    cells = [Cell(site=f"layer{c}", operand="weight", window=None, bits="4") for c in range(len(costs))]  # fmt: skip
    return [Row.of(cell, "latent_error", v.tolist()) for cell, v in zip(cells, costs, strict=True)]


def values(costs: np.ndarray) -> np.ndarray:
    return np.array([row.value for row in typical_costs(rows(costs)).values()])


def test_one_sample_about_to_become_another_picture_does_not_decide() -> None:
    costs = np.full((2, 8), 1.0)
    costs[1] = 0.1
    costs[:, 7] = 100, 1000
    means = [row.value for row in rows(costs)]
    assert means[1] is not None
    assert means[0] is not None
    assert means[1] > means[0]
    typical = values(costs)
    assert typical[0] > 3 * typical[1]


@given(st.lists(st.lists(COSTS, min_size=3, max_size=3), min_size=2, max_size=4), COSTS)
def test_a_sample_that_costs_more_everywhere_changes_no_ratio(
    costs: list[list[float]], factor: float
) -> None:
    before = np.array(costs)
    after = before * [1, factor, 1]
    first, second = values(before), values(after)
    assert second / second[0] == pytest.approx(first / first[0], rel=1e-9)


def test_the_sum_of_cells_is_the_typical_loss_where_samples_differ_in_size_alone() -> None:
    of_cells, of_samples = np.array([1.0, 3.0, 0.5]), np.array([1.0, 10.0, 0.1, 100.0])
    costs = of_cells[:, None] * of_samples
    loss = np.exp(np.log(costs.sum(0)).mean())
    assert values(costs).sum() == pytest.approx(loss, rel=1e-12)
    weighed = [row.per_sample for row in typical_costs(rows(costs)).values()]
    assert np.array(weighed).sum(0) == pytest.approx(np.full(4, loss))


def test_a_sample_that_costs_nothing_weighs_nothing() -> None:
    costs = np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 6.0]])
    assert values(costs).sum() == pytest.approx(np.sqrt(4 * 8) * 2 / 3)


@pytest.mark.parametrize(
    "costs", [[[1.0], [2.0]], [[1.0, -0.1], [2.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]]
)
def test_what_cannot_be_weighed_stays_as_it_is(costs: list[list[float]]) -> None:
    given = rows(np.array(costs))
    assert list(typical_costs(given).values()) == given


def test_rows_without_a_number_stay_without_one() -> None:
    given = rows(np.array([[1.0, 2.0], [3.0, 4.0]]))
    empty = given[1].model_copy(update={"value": None, "per_sample": ()})
    found = typical_costs([given[0], empty])
    assert found[empty.cell] == empty
    assert found[given[0].cell].value == pytest.approx(2**0.5)
