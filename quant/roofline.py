"""The least time that one evaluation of a network takes on a named device: predicted from shapes alone.

m rows, k channels in, n out; b_a and b_w bits of a number of the input and of the weight; q queries, s keys,
s' of them seen by one query, c channels; w bytes and p operations that the device does in a second at most:

    site        max((m k b_a + k n b_w + 16 m n) / 8 w,  2 m k n / p)
    attention   max(2 (2 q + 2 s) c / w,  4 q s' c / p)
    network     the sum over its sites and attentions

p is the int8 peak where weight and input are integers of at most 8 bits, else the bf16 peak; attention is
counted in bf16. A site reads its input and its weight once and writes its output in 16 bit.

It is a floor, never a speed of ours: no kernel is always at its device's peak. Left out are launches,
scales and changes of basis, norms and activation functions, convolutions, linear attention, the VAE and
text encoders; a site that is kept is counted with one row per sample. What could go below it: kernels
that join several sites and keep what is between them on the chip, and int4 units, which Hopper lacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING

from .errors import BadInput, unknown

if TYPE_CHECKING:
    from .adapters import Site
    from .effort import Network
    from .recording import InputShape
    from .schema import Bits

FULL = 16  # bits of a number that is not quantized
_CROSS, _SELF, _TEMPORAL = "cross_q", "self_q", "temporal_q"


@dataclass(frozen=True)
class Device:
    """Peaks of one GPU, dense: without the factor two of structured sparsity."""

    title: str
    memory_bytes: int  # a data sheet's GB taken as 10^9 bytes, the smaller reading
    bandwidth: float  # of its memory, bytes a second
    bf16: float  # operations a second of matrix products, accumulated in float32
    int8: float  # accumulated in int32
    source: str
    driver: str  # what its driver calls it

    def peak(self, bits: Bits | None) -> float:
        """Operations a second for products at these bits; None: 16 bit on both sides."""
        return self.bf16 if bits is None or bits.activation is None else self.int8


# A multiply-add is two operations. Where a sheet gives sparse peaks only, they are halved.
DEVICES: Mapping[str, Device] = {
    "rtx-4090": Device(
        "GeForce RTX 4090",
        24 * 10**9,
        1.008e12,
        165.2e12,
        660.6e12,
        "NVIDIA Ada GPU Architecture whitepaper, appendix A",
        "NVIDIA GeForce RTX 4090",
    ),
    "a100-80gb": Device(
        "A100 80GB SXM",
        80 * 10**9,
        2.039e12,
        312e12,
        624e12,
        "NVIDIA A100 Tensor Core GPU data sheet",
        "NVIDIA A100-SXM4-80GB",
    ),
    "h100-sxm": Device(
        "H100 SXM",
        80 * 10**9,
        3.35e12,
        989e12,
        1979e12,
        "NVIDIA H100 Tensor Core GPU data sheet",
        "NVIDIA H100 80GB HBM3",
    ),
    "h200": Device(
        "H200 SXM",
        141 * 10**9,
        4.8e12,
        989e12,
        1979e12,
        "NVIDIA H200 Tensor Core GPU data sheet",
        "NVIDIA H200",
    ),
}


def device_named(name: str) -> Device | None:
    """The device that a driver calls `name`, to the letter: cards of one chip have other peaks as PCIe, NVL or in a laptop."""
    return next((d for d in DEVICES.values() if d.driver == name), None)


@dataclass(frozen=True)
class Attention:
    """The two products of one attention, for one sample in one branch."""

    name: str  # of its module
    queries: int
    keys: int
    seen: int  # keys that one query attends to: those of its own frame, or of its own place
    channels: int


@dataclass(frozen=True)
class Floor:
    """Seconds of one evaluation, at least."""

    sites: Mapping[str, float]
    attentions: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Of all."""
        return fsum([*self.sites.values(), *self.attentions.values()])


def site_seconds(
    device: Device, rows: int, in_features: int, out_features: int, bits: Bits | None = None
) -> float:
    """One linear layer, at least.

    Args:
        device: whose peaks.
        rows: m, of all samples and branches.
        in_features: k.
        out_features: n.
        bits: of integers; None: 16 bit.

    Raises BadInput for floating-point formats below 16 bit, whose peaks are not in the table.
    """
    if bits is not None and bits.kind != "int":
        raise BadInput(f"no floor is known for {bits}; integers (w8a8, w4a16) and 16 bit have one")
    of_weight = FULL if bits is None else bits.weight
    of_input = FULL if bits is None else bits.activation or FULL
    m, k, n = rows, in_features, out_features
    moved = (m * k * of_input + k * n * of_weight + FULL * m * n) / 8
    return max(moved / device.bandwidth, 2 * m * k * n / device.peak(bits))


def attention_seconds(device: Device, attention: Attention, batch: int = 1) -> float:
    """Two products in bf16, of so many samples times branches; the softmax between stays on the chip."""
    a = attention
    moved = FULL // 8 * (2 * a.queries + 2 * a.keys) * a.channels  # q and output, k and v
    products = 4 * a.queries * a.seen * a.channels
    return batch * max(moved / device.bandwidth, products / device.bf16)


def attentions_of(
    network: Network, shapes: Mapping[str, InputShape], frames: int = 1
) -> list[Attention]:
    """Every softmax attention, found by the sites that make its queries and keys."""
    modules: dict[str, list[Site]] = defaultdict(list)
    for site in network.sites:
        if site.role.endswith(("_q", "_k")) and site.input_of in shapes:
            modules[site.name.rpartition(".")[0]].append(site)
    found = []
    for name, sites in modules.items():
        asking = [s for s in sites if s.role.endswith("_q")]
        roles = {s.role for s in asking}
        if not asking or (network.adapter.linear_attention and _SELF in roles):
            continue
        queries = sum(shapes[s.input_of].tokens for s in asking)
        keys = sum(shapes[s.input_of].tokens for s in sites if s.role.endswith("_k"))
        seen = keys if roles == {_CROSS} else frames if _TEMPORAL in roles else keys // frames
        found.append(Attention(name, queries, keys, seen, asking[0].out_features))
    return found


def floor(
    device: Device,
    network: Network,
    shapes: Mapping[str, InputShape],
    frames: int = 1,
    *,
    batch: int = 1,
    formats: Mapping[str, Bits | None] | None = None,
) -> Floor:
    """One denoising evaluation, at least, site by site.

    Args:
        device: of `DEVICES`.
        network: its sites, and what its family is like.
        shapes: rows of its inputs (`quant.effort.shapes_of`).
        frames: whose rows attend apart, from there too.
        batch: samples times guidance branches.
        formats: bits of a site by name; sites without an entry, and None, are in 16 bit.

    Raises BadInput where rows are not known, and for a site that the network does not have.
    """
    if not shapes:
        raise BadInput("rows are not known: the configuration does not say how large a picture is")
    chosen = formats or {}
    names = [site.name for site in network.sites]
    strange = next((name for name in chosen if name not in set(names)), None)
    if strange is not None:
        raise unknown("site", strange, names)
    sites = {}
    for site in network.sites:
        rows = batch * (shapes[site.input_of].tokens if site.input_of in shapes else 1)
        sites[site.name] = site_seconds(
            device, rows, site.in_features, site.out_features, chosen.get(site.name)
        )
    found = attentions_of(network, shapes, frames)
    return Floor(sites, {a.name: attention_seconds(device, a, batch) for a in found})
