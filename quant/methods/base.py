"""What a method is: a module with five names, and two more where it changes formats.

CARD      a literal `quant.cards.Card`
Options   a pydantic model of its documented options, the paper's defaults
the paper's equations as small pure functions
stored_transform(options) -> what a site stores beside its codes at most
quantize_group(group, seen, options, seed) -> one `Rounded` for each site of the group

planned(plan, groups, timesteps, options, seed) -> the plan with this method's own formats or windows
stored_formats(site, in_features, options, steps) -> the formats that a site of that plan has at most

A group is the sites that read the same tensor (q, k and v of one attention): they share whatever is
done to it. Methods never import one another; shared mathematics lives in `quant.balancing`,
`quant.hessian`, `quant.ranges`, `quant.rounding` and `quant.transforms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..calibration import InputStatistics
from ..layers import LowRank, Transform
from ..rounding import Ranges, WeightCodes, round_to_nearest
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
    steps: tuple[tuple[int, ...], ...] = ()  # calibrated steps in each window of the plan

    @property
    def width(self) -> int:
        """i: channels of the tensor."""
        return self.sites[0].weight.shape[1]


@dataclass(frozen=True)
class Rounded:
    """What a method made of one site; `weight` is a tensor where the plan keeps it in floating point."""

    weight: WeightCodes | Tensor
    channel_scale: Tensor | None = None  # float32 [i], representable in float16
    signs: Tensor | None = None  # int8 [i]
    low_rank: LowRank | None = None  # what `weight` does not hold
    ranges: Ranges | None = None  # where the plan has static activations
    notes: dict[str, object] | None = (
        None  # what was chosen, for tables: {"transform": "scale", "alpha": 0.3}
    )


class Method(Protocol):
    """The module of a method."""

    Options: type[Value]

    def stored_transform(self, options: Value) -> Transform:
        """What a site stores beside its codes at most: sizes are predicted from it."""
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
    return Rounded(kept, scale, signs, notes=notes)
