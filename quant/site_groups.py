"""The sites of a plan in groups that read one tensor, with weights and statistics; the plan as a method changes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .adapters import Site
from .calibration import InputStatistics
from .cards import Card, load_method, methods
from .errors import BadInput
from .methods.base import Group, SiteWeight
from .models import Model
from .plans import over_one_window, steps_of
from .schema import Plan, Sampler, SitePlan, Value
from .seen import Seen
from .streaming import present


def groups_of(
    model: Model, method: str, plan: Plan, options: Value, seen: Seen | None, *, seed: int = 0
) -> tuple[Plan, Groups]:
    """The plan as the method changes it, and its groups with their statistics, as `quantize` has them."""
    plan = over_one_window(plan, methods()[method])
    own = with_own_formats(load_method(method), model.sites, plan.sites, options)
    plan = plan.model_copy(update={"sites": dict(own)})
    groups = Groups(model, plan, seen, methods()[method])
    check_groups(method, groups, groups.timesteps, options)
    windows = plan.windows
    plan = planned(load_method(method), plan, groups, groups.timesteps, options, seed)
    if seen is not None and plan.windows != windows:
        sampler = Sampler.parse(seen.manifest["sampler"], "the calibration's sampler")
        plan = plan.model_copy(update={"sampler": sampler.fingerprint})
    return plan, replace(groups, plan=plan)


@dataclass(frozen=True)
class Groups:
    """The groups of a plan with their statistics; weights are read when a group is asked for."""

    model: Model
    plan: Plan
    seen: Seen | None
    card: Card

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Of the calibrated steps."""
        return () if self.seen is None else self.seen.timesteps

    @property
    def sites(self) -> list[Site]:
        """The quantized ones."""
        named = {name for names in self._sites().values() for name in names}
        return [site for site in self.model.sites if site.name in named]

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Of each group, the name of its tensor and those of its sites."""
        return [(input_of, *sites) for input_of, sites in self._sites().items()]

    def __len__(self) -> int:
        return len(self._sites())

    def __iter__(self) -> Iterator[tuple[Group, InputStatistics | None]]:
        steps = steps_of(self.plan.windows, self.timesteps)
        for input_of, sites in self._sites().items():
            weights = tuple(self._weight(name) for name in sites)
            yield Group(input_of, weights, steps), self._statistics(input_of, weights)

    def _sites(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for site in self.model.sites:
            site_plan = self.plan.sites.get(site.name)
            if site_plan is not None and site_plan.quantized:
                found.setdefault(site.input_of, []).append(site.name)
        return found

    def _weight(self, name: str) -> SiteWeight:
        linear = self.model.transformer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        # Methods compute where the statistics are; the layers they make go back to the model.
        with present(linear):
            bias = None if linear.bias is None else linear.bias.detach().cpu()
            weight = linear.weight.detach().cpu().float()
        group = next(site.group for site in self.model.sites if site.name == name)
        return SiteWeight(name, weight, bias, self.plan.sites[name], group)

    def _statistics(self, input_of: str, weights: Sequence[SiteWeight]) -> InputStatistics | None:
        if not self.card.needs or self.seen is None:
            return None
        if input_of not in self.seen.inputs:
            kept = {s.name for s in self.model.sites if s.kept_reason}
            if all(w.name in kept and not any(w.plan.activations) for w in weights):
                return None  # a method quantizes it besides: weights alone, nothing was recorded
            raise BadInput(
                f"the calibration has no statistics of {input_of}; it was recorded from another model"
            )
        return self.seen.inputs[input_of]


def with_own_formats(
    module: Any, sites: Sequence[Site], formats: Mapping[str, SitePlan], options: Value
) -> Mapping[str, SitePlan]:
    """The formats as the method has them from the sites alone; most methods leave them as they are."""
    change = getattr(module, "own_formats", None)
    return formats if change is None else change(sites, formats, options)


def planned(
    module: Any,
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Value,
    seed: int,
) -> Plan:
    """The plan as the method changes it; most methods leave it as it is."""
    change = getattr(module, "planned", None)
    return plan if change is None else change(plan, groups, timesteps, options, seed)


def check_groups(method: str, groups: Groups, timesteps: Sequence[float], options: Value) -> None:
    """Stop where a method's own checks find that options fit neither the groups nor the steps."""
    module = load_method(method)
    check, check_sites = getattr(module, "check", None), getattr(module, "check_sites", None)
    if check is not None and (timesteps or not groups.card.needs):
        check(groups.plan, groups.names, timesteps, options)
    if check_sites is not None:
        check_sites(groups.plan, groups.sites, options)
