"""What a person reads of a value that pydantic refuses."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, model_validator

from quant.errors import BadInput
from quant.schema import Value


class Inner(Value):
    low: float
    high: float = 1.0


class Asked(Value):
    count: int = Field(default=1, ge=1)
    cut: Literal[1, 2, "step"] | tuple[int, ...] = 1
    share: Literal["search"] | float | dict[str, Literal["search"] | float] = "search"
    inner: Inner | None = None

    @model_validator(mode="after")
    def _odd(self) -> Asked:
        if self.count % 2 == 0:
            raise ValueError("count is odd")
        return self


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"count": 0}, "at count: expected greater than or equal to 1 (got 0)"),
        ({"count": "x"}, "at count: expected a whole number (got 'x')"),
        ({"cut": 3}, "at cut: expected 1, 2 or 'step', or a list (got 3)"),
        ({"cut": [5, "a"]}, "at cut.1: expected a whole number (got 'a')"),
        (
            {"share": "{"},
            "at share: expected 'search', or a number, or names with values (got '{')",
        ),
        ({"share": {"a.*": "x"}}, "at share.a.*: expected 'search', or a number (got 'x')"),
        ({"colour": "red"}, "at colour: not known (got 'red')"),
        ({"inner": {}}, "at inner: low is missing (got {})"),
        ({"count": 2, "cut": "step"}, "count is odd (got count=2)"),
        ([1], "expected a valid dictionary or instance of Asked (got [1])"),
        ({"share": "x" * 200}, "(got '" + "x" * 76 + "...)"),
    ],
)
def test_the_form_that_nearly_fits_is_told_and_the_value(data: object, expected: str) -> None:
    with pytest.raises(BadInput) as refused:
        Asked.parse(data, "--option")
    assert str(refused.value).startswith("--option: ")
    assert str(refused.value).endswith(expected)
