"""What a method is: a module with five names.

CARD      a literal `quant.cards.Card`
Options   a pydantic model of its documented options, the paper's defaults
the paper's equations as small pure functions
stored_transform(options) -> the input transform that a site stores at most
quantize_group(group, seen, options, seed) -> one `Rounded` for each site of the group

A group is the sites that read the same tensor (q, k and v of one attention): they share whatever is
done to it. Methods never import one another; shared mathematics lives in `quant.rounding` and
`quant.transforms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..calibration import InputStatistics
from ..layers import Transform
from ..rounding import WeightCodes, round_to_nearest
from ..schema import SitePlan, Value
from ..transforms import to_weight


@dataclass(frozen=True)
class SiteWeight:
    """One site as a method gets it."""

    name: str
    weight: Tensor  # float32 [o, i]
    bias: Tensor | None  # [o]
    plan: SitePlan


@dataclass(frozen=True)
class Group:
    """The sites that read one tensor."""

    input_of: str
    sites: tuple[SiteWeight, ...]


@dataclass(frozen=True)
class Rounded:
    """What a method made of one site; `weight` is a tensor where the plan keeps it in floating point."""

    weight: WeightCodes | Tensor
    channel_scale: Tensor | None = None  # float32 [i], representable in float16
    signs: Tensor | None = None  # int8 [i]
    notes: dict[str, object] | None = (
        None  # what was chosen, for tables: {"transform": "scale", "alpha": 0.3}
    )


class Method(Protocol):
    """The module of a method."""

    Options: type[Value]

    def stored_transform(self, options: Value) -> Transform:
        """The input transform that a site stores at most: sizes are predicted from it."""
        ...

    def quantize_group(
        self, group: Group, seen: InputStatistics | None, options: Value, seed: int
    ) -> list[Rounded]:
        """Quantize the sites of one group."""
        ...


def transformed_and_rounded(
    site: SiteWeight, scale: Tensor | None, signs: Tensor | None, notes: dict[str, object]
) -> Rounded:
    """Fold the transform into the weight and round it, once."""
    weight = to_weight(site.weight, scale, signs)
    kept = weight if site.plan.weight is None else round_to_nearest(weight, site.plan.weight)
    return Rounded(kept, scale, signs, notes)
