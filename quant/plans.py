"""Plans: which format every site gets, for weights and, per step window, for activations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import kernels

from .adapters import Site
from .cards import Card
from .errors import BadInput, unknown
from .generation import timesteps_of
from .models import Model
from .rounding import check_shape
from .schema import HIGHEST, LOWEST, AttentionFormat, Bits, Format, Plan, Sampler, SitePlan, Window
from .step import window_of
from .support import unfit


def refined(windows: Sequence[Window], timesteps: Sequence[float]) -> tuple[Window, ...]:
    """The same windows cut further, so that no two of these timesteps share one.

    Cuts lie halfway between neighbouring timesteps, so that a sampler that rounds its timesteps a
    little differently still falls into the same window.
    """
    distinct = sorted(set(timesteps), reverse=True)
    cuts = {(a + b) / 2 for a, b in itertools.pairwise(distinct)}
    inner = {w.low for w in windows[:-1]}
    covered = {c for c in cuts if not any(_between(b, c, distinct) for b in inner)}
    edges = [windows[0].high, *sorted(inner | covered, reverse=True), windows[-1].low]
    return tuple(Window(low=low, high=high) for high, low in itertools.pairwise(edges))


def _between(border: float, cut: float, timesteps: Sequence[float]) -> bool:
    """Whether a border parts the same two timesteps as a cut."""
    return sum(t >= border for t in timesteps) == sum(t >= cut for t in timesteps)


def with_windows(plan: Plan, windows: tuple[Window, ...]) -> Plan:
    """The plan over finer windows, each with the formats of the window that it lies in."""
    owner = [window_of(plan.windows, (w.low + w.high) / 2) for w in windows]
    sites = {
        name: SitePlan(weight=s.weight, activations=tuple(s.activations[k] for k in owner))
        for name, s in plan.sites.items()
    }
    return plan.model_copy(update={"windows": windows, "sites": sites})


def over_one_window(plan: Plan, card: Card) -> Plan:
    """The plan as a method sees it that has one format for all steps; BadInput where formats change between windows."""
    if not card.one_window or len(plan.windows) == 1:
        return plan
    changing = [name for name, site in plan.sites.items() if len(set(site.activations)) > 1]
    if changing:
        formats = " and ".join(
            str(a or "16 bit") for a in dict.fromkeys(plan.sites[changing[0]].activations)
        )
        more = f", as in {len(changing) - 1} more" if len(changing) > 1 else ""
        raise BadInput(
            f"{card.key} has one activation format for all steps, and {changing[0]} has {formats} in different "
            f"windows{more}; give each layer one, or take a method that changes them, e.g. viditq"
        )
    whole = (Window(low=plan.windows[-1].low, high=plan.windows[0].high),)
    one = plan.each(lambda s: SitePlan(weight=s.weight, activations=s.activations[:1]))
    return one.model_copy(update={"windows": whole, "sampler": None})


def steps_of(windows: Sequence[Window], timesteps: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Of each window, the indices of the timesteps that fall into it."""
    owner = [window_of(windows, t) for t in timesteps]
    return tuple(tuple(i for i, w in enumerate(owner) if w == k) for k in range(len(windows)))


def windows_for(sampler: Sampler, count: int) -> tuple[Window, ...]:
    """Cut the sampler's steps into `count` equal runs, as half-open timestep ranges, the noisiest first.

    The border between two runs lies halfway between their last and first timesteps, so that a
    sampler that rounds its timesteps a little differently still falls into the same window.
    """
    if not 1 <= count <= sampler.steps:
        raise BadInput(
            f"windows {count} is out of range; 1 to {sampler.steps}, the number of steps"
        )
    if count == 1:
        return (Window(low=LOWEST, high=HIGHEST),)
    return windows_between(timesteps_of(sampler), count)


def windows_between(timesteps: Sequence[float], count: int) -> tuple[Window, ...]:
    """Cut timesteps, the noisiest first, into `count` equal runs, as `windows_for` does."""
    return windows_from(timesteps, [len(timesteps) * k // count for k in range(1, count)])


def windows_from(timesteps: Sequence[float], starts: Sequence[int]) -> tuple[Window, ...]:
    """Cut timesteps, the noisiest first, before these steps: the first of every window but the first."""
    steps = len(timesteps)
    wrong = [s for s in starts if not 0 < s < steps]
    if wrong:
        raise BadInput(
            f"no window can begin with step {wrong[0]} of a sampler of {steps} steps; its first step "
            f"is 0, so windows begin with steps 1 to {steps - 1}"
        )
    borders = [(timesteps[s - 1] + timesteps[s]) / 2 for s in starts]
    edges = [HIGHEST, *borders, LOWEST]
    return tuple(Window(low=low, high=high) for high, low in itertools.pairwise(edges))


def uniform_plan(
    model: Model,
    bits: Bits,
    *,
    sampler: Sampler | None = None,
    windows: int = 1,
    group_size: int | None = None,
    weight_symmetric: bool = False,
    activation_symmetric: bool = True,
    also: Iterable[str] = (),
    attention: AttentionFormat | None = None,
) -> Plan:
    """The same formats for every site that the adapter does not keep in 16 bit.

    `also` are roles that a method quantizes besides, inside the blocks (`Card.also`). Weights are rounded per output channel (or per group of `group_size` inputs), activations per
    token as they come. `attention` is of the scores of spatial self-attention.
    """
    sampler = sampler or model.sampler()
    cut = windows_for(sampler, windows)
    sites = uniform_formats(
        model.sites,
        bits,
        windows=windows,
        group_size=group_size,
        weight_symmetric=weight_symmetric,
        activation_symmetric=activation_symmetric,
        also=also,
    )
    bound = sampler.fingerprint if len(cut) > 1 else None
    return Plan(
        model=model.fingerprint, windows=cut, sampler=bound, sites=sites, attention=attention
    )


def uniform_formats(
    sites: Iterable[Site],
    bits: Bits,
    *,
    windows: int,
    group_size: int | None = None,
    weight_symmetric: bool = False,
    activation_symmetric: bool = True,
    also: Iterable[str] = (),
) -> dict[str, SitePlan]:
    """The formats of `uniform_plan`, from sites alone."""
    if bits.kind != "int":
        if group_size is not None:
            raise BadInput(f"{bits} brings its own scales; leave the group size away")
        weight = Format.of_kind(bits.kind)
        activation: Format | None = weight
    else:
        weight = Format(
            bits=bits.weight,
            symmetric=weight_symmetric,
            granularity="group" if group_size else "row",
            group_size=group_size,
        )
        activation = None
        if bits.activation is not None:
            activation = Format(bits=bits.activation, symmetric=activation_symmetric)
    besides = set(also)
    free = [
        s for s in sites if s.kept_reason is None or (s.block is not None and s.role in besides)
    ]
    for site in free:
        check_shape(weight, site.in_features, site.name)
    return {s.name: SitePlan(weight=weight, activations=(activation,) * windows) for s in free}


def check_formats(card: Card, formats: Mapping[str, SitePlan]) -> None:
    """Stop at formats that a method cannot make."""
    for name, site in formats.items():
        for activation in site.activations:
            reason = unfit(card, site.weight, activation)
            if reason:
                raise BadInput(f"{name}: {card.key} {reason}; try w{_near(card, site.weight)}a8")


def _near(card: Card, weight: Format | None) -> int:
    """Bits of weights that the method can make, near those of a weight."""
    return card.widths[-1] if weight is None else min(weight.bits, card.widths[-1])


def read_plan(path: Path) -> Plan:
    """A plan from a JSON file that a person hands in."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"plan {path}: there is no such file") from None
    except (ValueError, OSError) as error:
        raise BadInput(f"plan {path}: not readable as JSON: {error}") from None
    return Plan.parse(data, f"plan {path}")


def check_simulated(plan: Plan, backend: str | None) -> None:
    """Stop where a backend is asked to compute with scales that samples share: they are simulated only."""
    wanted = kernels.dispatch.requested(backend)
    if wanted not in ("auto", "simulate") and any(s.across_samples for s in plan.sites.values()):
        raise BadInput(
            f"activation scales that samples share are an ablation and only simulated, not {wanted}; "
            "leave the backend away, or take scales=row"
        )


def check_plan(plan: Plan, model: Model) -> None:
    """Stop when a plan names unknown sites or shapes that a format cannot hold, or is another model's."""
    check_sites(plan, model.sites, model.ref)
    if plan.model != model.fingerprint:
        raise BadInput(
            f"the plan was made for another model (its site list is {plan.model}, "
            f"{model.key} has {model.fingerprint}); make one for this model"
        )


def check_sites(plan: Plan, sites: Iterable[Site], ref: str) -> None:
    """Stop when a plan names a site that is not there, or a format that does not fit its shape."""
    names = {site.name: site for site in sites}
    for name, site_plan in plan.sites.items():
        if name not in names:
            raise unknown("site", name, names, f"List them: dqviz layers {ref}")
        for fmt in (site_plan.weight, *site_plan.activations):
            if fmt is not None:
                check_shape(fmt, names[name].in_features, name)
