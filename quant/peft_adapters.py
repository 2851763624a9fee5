"""LoRA adapters of PEFT beside quantized layers, without fusing them: y = layer(x) + scale (alpha / r) B A x.

PEFT knows `nn.Linear` and some quantizers' layers, and takes others where a configuration names them (`LoraConfig._register_custom_module`).
The adapter reads a layer's input as it comes, before any change of basis, in floating point. PEFT is no dependency: whoever
brings a configuration has it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import BadInput
from .layers import QuantLinear


def taking_quantized(config: Any, transformer: nn.Module) -> Any:
    """A `LoraConfig` with which PEFT also wraps the quantized layers of a transformer; the same object.

    BadInput where channel scales were folded into other layers: what those layers read and write is divided, and an
    adapter that was trained beside undivided layers would add to something else. So too for adapters that are
    made of the weight itself: DoRA, PiSSA and the like.
    """
    for name, site in transformer.named_modules():
        if isinstance(site, QuantLinear) and site.transform.folded_into:
            raise BadInput(
                f"{name} reads an input that other layers divide (folded scales), so no adapter fits beside "
                "them; fuse the LoRA before quantizing (--lora FILE), or quantize without folding"
            )
    for name, usual in (("use_dora", (False,)), ("init_lora_weights", (True, False, "gaussian"))):
        value = getattr(config, name)
        if value not in usual:
            raise BadInput(
                f"{name}={value!r} reads the weight that an adapter stands beside, and integers have none to "
                f"read; use {name}={usual[0]}"
            )
    config._register_custom_module({QuantLinear: _adapted()})
    return config


def _adapted() -> type:
    from peft.tuners.lora import Linear

    class QuantLoraLinear(Linear):
        """PEFT's layer over a quantized one, whose weight it cannot change."""

        def merge(self, *args: Any, **kwargs: Any) -> None:
            """BadInput: integers take no change."""
            raise BadInput(
                "a quantized weight takes no LoRA; fuse the LoRA before quantizing (--lora FILE)"
            )

    return QuantLoraLinear
