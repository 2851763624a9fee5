"""The other quantizers: how each is called, exactly as its documentation says, and what it stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    """One configuration of another library."""

    key: str
    library: str
    title: str
    bits: str  # what ours is set to
    apply: Callable[[nn.Module, list[str], Callable[[nn.Module], None]], None]
    stored_bits: int  # of a weight code, where the library keeps it in a wider integer


# -- the peers, each exactly as its documentation says to call it


def torchao_config(name: str, **options: Any) -> Callable[..., None]:
    """`quantize_` with a configuration, on our sites only."""

    def apply(transformer: nn.Module, sites: list[str], _: object) -> None:
        from torchao import quantization

        wanted = set(sites)
        if options.get("group"):
            config = getattr(quantization, name)(
                weight_dtype=torch.int4,  # pyright: ignore[reportAttributeAccessIssue]
                weight_granularity=quantization.PerGroup(options["group"]),
            )
        else:
            config = getattr(quantization, name)()
        quantization.quantize_(transformer, config, filter_fn=lambda _, fqn: fqn in wanted)

    return apply


def quanto_config(weights: str, activations: str | None = None) -> Callable[..., None]:
    """`quantize`, calibration where activations are quantized, `freeze`."""

    def apply(transformer: nn.Module, sites: list[str], draw: Callable[[nn.Module], None]) -> None:
        from optimum import quanto

        types = {"weights": getattr(quanto, weights)}
        if activations:
            types["activations"] = getattr(quanto, activations)
        quanto.quantize(transformer, include=sites, **types)
        if activations:
            with quanto.Calibration():
                draw(transformer)
        quanto.freeze(transformer)

    return apply


PEERS = (
    Peer(
        "torchao-w8a8",
        "torchao",
        "Int8DynamicActivationInt8WeightConfig (per row)",
        "w8a8",
        torchao_config("Int8DynamicActivationInt8WeightConfig"),
        8,
    ),
    Peer(
        "torchao-w4a8",
        "torchao",
        "Int8DynamicActivationIntxWeightConfig (int4, group 128)",
        "w4a8",
        torchao_config("Int8DynamicActivationIntxWeightConfig", group=128),
        4,
    ),
    Peer(
        "torchao-w8a16",
        "torchao",
        "Int8WeightOnlyConfig (per row)",
        "w8a16",
        torchao_config("Int8WeightOnlyConfig"),
        8,
    ),
    Peer(
        "quanto-w8a16",
        "optimum-quanto",
        "weights=qint8",
        "w8a16",
        quanto_config("qint8"),
        8,
    ),
    Peer(
        "quanto-w4a16",
        "optimum-quanto",
        "weights=qint4 (group 128)",
        "w4a16",
        quanto_config("qint4"),
        4,
    ),
    Peer(
        "quanto-w8a8",
        "optimum-quanto",
        "weights=qint8, activations=qint8 (static, calibrated)",
        "w8a8",
        quanto_config("qint8", "qint8"),
        8,
    ),
)


# Held against methods that learn alone: nearest rounding to two bits leaves nothing to compare.
QUANTO_INT2 = Peer(
    "quanto-w2a16",
    "optimum-quanto",
    "weights=qint2 (group 128)",
    "w2a16",
    quanto_config("qint2"),
    2,
)


def leaves(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors inside a tensor subclass, by attribute name."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in (Tensor, nn.Parameter):
        yield "", tensor
        return
    for name in flatten()[0]:
        for below, leaf in leaves(getattr(tensor, name)):
            yield f"{name}.{below}".rstrip("."), leaf


def peer_bytes(transformer: nn.Module, sites: list[str], stored_bits: int) -> int:
    """Weights with their scales and zero points; codes at the width that they would be saved in.

    torchao keeps int4 codes in int8 on a CPU: they count as four bits, as in its packed formats.
    """
    total = 0
    for name in sites:
        module = transformer.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)
        for _, leaf in leaves(weight):
            codes = leaf.dtype == torch.int8 and leaf.numel() == weight.numel()
            total += leaf.numel() * stored_bits // 8 if codes else leaf.nbytes
        for scale in ("input_scale", "output_scale"):  # static activation scales of quanto
            value = getattr(module, scale, None)
            total += value.nbytes if isinstance(value, Tensor) else 0
    return total
