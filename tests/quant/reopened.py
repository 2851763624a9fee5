"""Open exported checkpoints with diffusers and torchao alone, as somebody without DQ-Viz would.

    python reopened.py FOLDER INPUTS OUT

Every folder in FOLDER is a transformer. INPUTS is a safetensors file of what all of them are given. OUT gets, for each
folder NAME, `NAME/output`, and `NAME/SITE` for every weight that torchao holds in a class of its own, dequantized.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file


def main() -> None:
    """Open each, write down what is in it and what it makes of the inputs."""
    folder, given, out = map(Path, sys.argv[1:])
    inputs = load_file(given)
    found: dict[str, torch.Tensor] = {}
    for place in sorted(folder.iterdir()):
        network = DiTTransformer2DModel.from_pretrained(place, torch_dtype=torch.float32).eval()
        for name, module in network.named_modules():
            if (
                isinstance(module, torch.nn.Linear)
                and type(module.weight) is not torch.nn.Parameter
            ):
                found[f"{place.name}/{name}"] = module.weight.dequantize().float().contiguous()
        with torch.no_grad():
            found[f"{place.name}/output"] = network(**inputs).sample
    assert not {"quant", "kernels", "dqviz"} & set(sys.modules)
    save_file(found, out)


if __name__ == "__main__":
    main()
