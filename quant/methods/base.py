"""What a method is: a module with five names, and more where it changes formats or shares attention.

CARD      a literal `quant.cards.Card`
Options   a pydantic model of its documented options, the paper's defaults
the paper's equations as small pure functions
stored_transform(options) -> what a site stores beside its codes at most
quantize_group(group, seen, options, seed) -> one `Rounded` for each site of the group, or a tuple of
    them where a site has a transform and codes of its own in every window

check(plan, inputs, timesteps, options) stops, before anything is calibrated, at options that fit neither
    the quantized inputs (each a tuple: its name, then its sites') nor the steps
check_sites(plan, sites, options) stops, as early, at options that do not fit the quantized sites of the model
planned(plan, groups, timesteps, options, seed) -> the plan with this method's own formats or windows
site_transform(site, options) -> what that site of a model stores at most, where sites differ in it
own_formats(sites, formats, options) -> formats by name as the method has them, from the model's sites alone:
    what depends on where a site is, and sites that it quantizes besides
stored_formats(site, in_features, options, steps) -> the formats that a site of that plan has at most
learner(asked) -> a `quant.learning.Learner`; then its card says `learns=True`, and its steps take the place of
    `quantize_group`, which makes what learning starts from
work(shape, options) -> what one group takes (`quant.effort.Work`), steps of a learner included
memory(shapes, options) -> bytes that the method works with, over all groups
sharing(options) -> what is asked of attention sharing, or None (`quant.sharing_choice.SharingOptions`)

A group is the sites that read the same tensor (q, k and v of one attention): they share whatever is
done to it. Methods never import one another; shared mathematics lives in `quant.balancing`,
`quant.hessian`, `quant.ranges`, `quant.rounding` and `quant.transforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ..calibration import InputStatistics
from ..rounding import Ranges, WeightCodes, round_to_nearest
from ..schema import SitePlan, Value
from ..site_tensors import LowRank, Transform
from ..transforms import BlockRotation, to_weight
from ..vectors import VectorCodes


@dataclass(frozen=True)
class SiteWeight:
    """One site as a method gets it."""

    name: str
    weight: Tensor  # float32 [o, i]
    bias: Tensor | None  # [o]
    plan: SitePlan
    metric_group: str = "none"  # of its role, where roles are known


@dataclass(frozen=True)
class Group:
    """The sites that read one tensor."""

    input_of: str
    sites: tuple[SiteWeight, ...]
    steps: tuple[tuple[int, ...], ...] = ()  # calibrated steps in each window of the plan

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensor, then of its sites."""
        return (self.input_of, *(site.name for site in self.sites))

    @property
    def width(self) -> int:
        """i: channels of the tensor."""
        return self.sites[0].weight.shape[1]

    def calibrated(self, total: int) -> tuple[tuple[int, ...], ...]:
        """Of each window its steps; a window into which none of the `total` steps falls takes all."""
        every = tuple(range(total))
        return tuple(steps or every for steps in self.steps or (every,))

    def in_window(self, window: int) -> Group:
        """The same sites with the formats of one window only."""
        sites = tuple(
            replace(
                site,
                plan=SitePlan(
                    weight=site.plan.weight, activations=(site.plan.activations[window],)
                ),
            )
            for site in self.sites
        )
        return Group(self.input_of, sites)


@dataclass(frozen=True)
class Rounded:
    """What a method made of one site.

    `weight` is a tensor where the plan keeps it in floating point (transformed), and where it is to
    be requantized at window entry (untransformed).
    """

    weight: WeightCodes | VectorCodes | Tensor
    channel_scale: Tensor | None = None  # float32 [i], representable in float16
    signs: Tensor | None = None  # int8 [i]
    blocks: BlockRotation | None = None
    low_rank: LowRank | None = None  # what `weight` does not hold
    ranges: Ranges | None = None  # where the plan has static activations
    bias: Tensor | None = None  # float32 [o], in the place of the site's own
    shift: Tensor | None = None  # float16 [i], whole steps of the static range times `migration`
    migration: Tensor | None = None  # uint8 [i], folded into `weight`
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
    ) -> Sequence[Rounded | tuple[Rounded, ...]]:
        """Quantize the sites of one group; a tuple holds one for each window of the plan."""
        ...


def transformed_and_rounded(
    site: SiteWeight,
    scale: Tensor | None,
    signs: Tensor | None,
    notes: dict[str, object],
    blocks: BlockRotation | None = None,
) -> Rounded:
    """Fold the transform into the weight and round it, once."""
    weight = to_weight(site.weight, scale, signs, blocks)
    kept = weight if site.plan.weight is None else round_to_nearest(weight, site.plan.weight)
    return Rounded(kept, scale, signs, blocks, notes=notes)
