"""DQ-Viz: what post-training quantization does to a Diffusion Transformer, and what to do about it.

The command line and the app call what this package exports. Importing it loads no torch and no
Gradio. When another distribution's `quant` or `kernels` would be imported instead of ours, using
the package stops at once with one line that says so (`dqviz doctor` reports it too).
"""

from __future__ import annotations

import importlib
from typing import Any

from .provenance import require_ours

__version__ = "0.1.0"

_PUBLIC = {
    "AllocateRequest": "allocating",
    "CaptureRequest": "capturing",
    "CompareRequest": "request",
    "ProbeRequest": "probing",
    "Study": "study",
    "SweepRequest": "sweep_request",
    "allocate": "allocating",
    "as_command": "command_lines",
    "capture": "capturing",
    "check_method": "method_check",
    "compare": "comparison",
    "draw_to": "export",
    "export_to": "foreign",
    "judge": "gate",
    "launch": "ui.server",
    "probe": "probing",
    "quantize_to": "export",
    "sweep": "sweeping",
    "write_report": "report",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Public names are imported on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dqviz' has no attribute '{name}'")
    require_ours()
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __package__), name)
