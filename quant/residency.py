"""What a quantized transformer holds in memory: predicted from shapes, counted in a running one.

Stored: every tensor of the file, once, in the dtypes of the file. Expanded: what simulation makes of the
stored form for the window that it is in and keeps until the next: weights and the change of basis in
float32, a permutation as int64, zero points as int16; of a requantized site its codes. At most, for methods
that choose site by site. Integer products keep a layout of their own instead, a byte for each weight, on a GPU
half a byte up to 4 bits, and in the place of the stored codes, which are made of it again when somebody asks for
them (`held_codes.py`); where the change of basis is per window, beside those of all windows.

A weight of which the product is in floating point is held as float32 in mode "speed", codebooks and
weight-only sites among them: every call would have to widen anything smaller. Mode "memory" is for those. A codebook
in int8 has integer products with rows of integers: its weight is then held as integers are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from kernels.int_linear import Residency

from .adapters import Site
from .errors import unknown
from .int_attention import run_on
from .layers import QuantLinear
from .rounding import groups_of
from .schema import SitePlan
from .site_tensors import Transform, has_integer_sums, has_static_sums
from .sizes import SizeReport

MODES: tuple[str, ...] = get_args(Residency)


@dataclass(frozen=True)
class Resident:
    """Bytes in memory."""

    stored_bytes: int
    expanded_bytes: int  # beside them, once every layer ran

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, with the sum as `resident_bytes`."""
        return {**asdict(self), "resident_bytes": self.stored_bytes + self.expanded_bytes}


def predicted(
    size: SizeReport,
    sites: Sequence[Site],
    plan: Mapping[str, SitePlan],
    transforms: Mapping[str, Transform],
) -> Resident:
    """Of a transformer in the stored form that `size` tells, run in simulation.

    Sites that read one tensor transform it once; a requantized one needs the basis for its codes too.
    """
    expanded, ready = 0, set()
    for site in sites:
        own = plan.get(site.name)
        if own is None or not own.quantized:
            continue
        transform = transforms[site.name]
        expanded += _weight(site, own, transform)
        if transform.requantized or site.input_of not in ready:
            expanded += _basis(site.in_features, transform)
        ready.add(site.input_of)
    return Resident(size.total_bytes - size.parts["header"], expanded)


def _weight(site: Site, plan: SitePlan, transform: Transform) -> int:
    fmt = plan.weight
    if fmt is None:
        return 0
    count = site.out_features * groups_of(fmt, site.in_features)
    found = 4 * site.in_features * site.out_features
    of_integers = (
        a is not None and (has_integer_sums(fmt, a, transform.codebook) or has_static_sums(fmt, a))
        for a in plan.activations
    )
    if any(of_integers):
        found += 0 if fmt.symmetric else 2 * count
        if transform.requantized:
            found += site.out_features * -(-site.in_features * fmt.bits // 8) + 4 * count
    return found


def _basis(i: int, transform: Transform) -> int:
    return 4 * i * (transform.scale + transform.migration + transform.shift + transform.rotate) + (
        8 * i if transform.block else 0
    )


def hold(transformer: nn.Module, residency: str) -> None:
    """From now on: in mode "memory" layers hold what is stored, in mode "speed" what their products read.

    `auto` simulates in mode "memory", where weights are expanded in every call. Numbers are the same in both,
    but for sums of floating-point parts in another order. Raises BadInput for any other mode.
    """
    if residency not in MODES:
        raise unknown("residency", residency, MODES, f"They are: {', '.join(MODES)}")
    for layer in transformer.modules():
        if isinstance(layer, QuantLinear):
            layer.residency = cast(Residency, residency)
            layer.forget()


def compute_with(transformer: nn.Module, backend: str, residency: str) -> None:
    """From now on: products run on a backend, which `auto` leaves to each, and weights are held in a mode."""
    for layer in transformer.modules():
        if isinstance(layer, QuantLinear):
            layer.backend = backend
    run_on(transformer, backend)
    hold(transformer, residency)


def counted(transformer: nn.Module) -> Resident:
    """Of a transformer in this process, with what its layers have made ready by now."""
    stored = {t.data_ptr(): t.nbytes for t in _persistent(transformer)}
    made: dict[int, int] = {}
    for layer in transformer.modules():
        if isinstance(layer, QuantLinear):
            made |= {_place(t): _bytes(t) for t in _tensors(layer.prepared)}
    held = [(b.data_ptr(), b.data_ptr() + b.nbytes) for b in transformer.buffers()]
    held += [(p.data_ptr(), p.data_ptr() + p.nbytes) for p in transformer.parameters()]
    own = {at: size for at, size in made.items() if not any(a <= at < b for a, b in held)}
    return Resident(sum(stored.values()), sum(own.values()))


def _persistent(transformer: nn.Module) -> Iterator[Tensor]:
    """What `state_dict` has, without codes that it would make, or tensors on disk."""
    for module in transformer.modules():
        own = {**module._parameters, **module._buffers}
        for name, tensor in own.items():
            if tensor is None or tensor.is_meta or name in module._non_persistent_buffers_set:
                continue
            yield tensor


def _bytes(t: Tensor) -> int:
    """What a tensor takes; oneDNN's own layout pads, and knows of columns what it needs."""
    return torch.ops.mkldnn._nbytes(t) if t.is_mkldnn else t.nbytes


def _place(t: Tensor) -> int:
    """What equal tensors have alike; oneDNN's own layout lies where nobody may look, and is nobody else's."""
    return -id(t) if t.is_mkldnn else t.data_ptr()


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in something that was made ready."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif is_dataclass(value):
        yield from _tensors(vars(value))
