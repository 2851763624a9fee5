"""The engine of DQ-Viz: adapters, calibration, methods, evaluation, checkpoints.

Importing this package costs no torch. It also makes checkpoints of ours loadable by plain
diffusers: as soon as diffusers' quantizer registry is imported, ours is added to it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import wrapt

import kernels

DQVIZ = True  # lets the packages above tell this `quant` from another distribution's

if not getattr(kernels, "DQVIZ", False):
    found = getattr(kernels, "__file__", None) or next(iter(getattr(kernels, "__path__", ["?"])))
    raise ImportError(
        f"'kernels' is imported from {found}, which is another project's package of that name. "
        f"Mend it: pip uninstall kernels, or start Python in {Path(__file__).parents[1]}"
    )


def _register_with_diffusers(_module: object) -> None:
    importlib.import_module(".diffusers_quantizer", __package__)


wrapt.register_post_import_hook(_register_with_diffusers, "diffusers.quantizers.auto")

_PUBLIC = {
    "calibrate": "calibration",
    "CalibrationOptions": "calibration",
    "Seen": "seen",
    "check_checkpoint": "checkpoint",
    "check_method": "conformance.check",
    "export_checkpoint": "exports",
    "generate": "generation",
    "Generation": "generation",
    "inject": "outliers",
    "Outliers": "schema",
    "components_of": "components",
    "load_model": "loading",
    "locate": "sources",
    "Source": "sources",
    "Lora": "schema",
    "embedded_models": "models",
    "Model": "models",
    "measure_similarity": "similarity",
    "Similarity": "sharing_choice",
    "quantize": "quantization",
    "Quantized": "quantization",
    "uniform_plan": "plans",
    "save_checkpoint": "checkpoint",
    "size_of": "sizes",
    "Plan": "schema",
    "Format": "schema",
    "Sampler": "schema",
    "Recipe": "schema",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    """Public names are imported on first use, because most of them need torch."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __package__), name)
    raise AttributeError(f"module 'quant' has no attribute '{name}'")
