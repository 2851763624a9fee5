"""Wrap a quantized transformer with an adapter of PEFT; say as JSON what it changes.

    python adapted.py CHECKPOINT INPUTS

A process of its own, because PEFT is found there alone. INPUTS is a safetensors file of the transformer's arguments.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file

from quant.errors import BadInput
from quant.peft_adapters import taking_quantized

SITE = "transformer_blocks.0.attn1.to_q"


@torch.no_grad()
def main() -> None:
    """Inject, compare, compile."""
    folder, given = sys.argv[1:]
    inputs = load_file(given)
    transformer: Any = DiTTransformer2DModel.from_pretrained(folder).eval()
    own = transformer.get_submodule(SITE)
    alone = transformer(**inputs).sample
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"])
    inject_adapter_in_model(taking_quantized(config, transformer), transformer)
    layer = transformer.get_submodule(SITE)
    found: dict[str, object] = {"base": layer.base_layer is own}
    found["begins with no change"] = torch.equal(transformer(**inputs).sample, alone)

    factors = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(factors[1], generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    with layer.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        changed = transformer(**inputs).sample
    x = seen[0]
    expected = own(x) + 3.0 * x @ factors[0].T @ factors[1].T
    found["adds scale B A x"] = float((layer(x) - expected).norm() / expected.norm())
    found["changes what comes out"] = not torch.equal(changed, alone)

    block = torch.compile(transformer.transformer_blocks[0], backend="aot_eager", fullgraph=True)
    call = {"timestep": inputs["timestep"], "class_labels": inputs["class_labels"]}
    tokens = transformer.pos_embed(inputs["hidden_states"])
    plain = transformer.transformer_blocks[0](tokens, **call)
    found["compiled"] = float((block(tokens, **call) - plain).norm() / plain.norm())

    layer.enable_adapters(False)
    found["switched off"] = torch.equal(layer(x), own(x))
    try:
        layer.merge()
    except BadInput as error:
        found["merged"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
