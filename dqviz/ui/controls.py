"""Widgets of the Compare page's form: what they offer for a model, their values as a `Form`, and a form put back into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..request import BACKENDS
from . import components
from .bench import Bench
from .form import (
    FIRST_CALIBRATION,
    FIRST_RUNS,
    FIRST_SEEDS,
    MOST_RUNS,
    Form,
    ModelFacts,
    checked_runs,
)
from .offered import PRESETS, offered, offered_json

# Controls that are text boxes: one that was never shown says None.
TEXTS = (
    "seeds",
    "prompts",
    "calibration",
    "options",
    "candidates",
    "negative",
    "size",
    "base",
    "loras",
    "frames",
)


@dataclass(frozen=True)
class Controls:
    """The widgets of the form, in the order of `Form`'s fields."""

    model: gr.Dropdown
    runs: gr.HTML
    seeds: gr.Textbox
    classes: gr.Dropdown
    prompts: gr.Textbox
    steps: gr.Number
    guidance: gr.Number
    calibration: gr.Textbox
    backend: gr.Dropdown
    residency: gr.Dropdown
    attention: gr.Dropdown
    windows: gr.Number
    options: gr.Textbox
    plan: gr.File
    candidates: gr.Textbox
    ladder: gr.Checkbox
    negative: gr.Textbox
    size: gr.Textbox
    frames: gr.Textbox
    base: gr.Textbox
    loras: gr.Textbox

    def all(self) -> list[Any]:
        """As inputs of a handler."""
        return list(vars(self).values())


def defaults(facts: ModelFacts) -> tuple[int | None, float | None]:
    """Steps and guidance of a model's card."""
    return facts.steps, facts.guidance


def controls_of(bench: Bench, first: str | None) -> tuple[Controls, gr.Markdown]:
    """The widgets, made for a model, and the line about it."""
    facts = bench.facts(first)
    model = gr.Dropdown(
        [(str(m["title"]), str(m["key"])) for m in bench.models],
        value=first,
        label="Model",
        info="From the list, or type a folder, a .safetensors file or owner/name",
        allow_custom_value=True,
        elem_id="dq-model",
    )
    about = gr.Markdown(escaped(facts.about), elem_id="dq-about")
    keys = {m["key"] for m in bench.methods}
    runs = components.run_list(
        offered(bench.methods, facts.adapted),
        PRESETS,
        [r for r in FIRST_RUNS if r["method"] in keys],
        MOST_RUNS,
        "dq-runs",
    )
    classes = gr.Dropdown(**class_choices(facts), elem_id="dq-classes")
    prompts = gr.Textbox(
        label="Prompts",
        info="One per line, 'prompt ||| negative prompt'; none takes the model's own",
        lines=3,
        visible=bool(facts.takes_prompts),
        elem_id="dq-prompts",
    )
    negative = gr.Textbox(
        label="Negative prompt",
        info="Of prompts that have none of their own",
        visible=bool(facts.takes_prompts),
        elem_id="dq-negative",
    )
    with gr.Row():
        seeds = gr.Textbox(FIRST_SEEDS, label="Seeds", min_width=80, elem_id="dq-seeds")
        steps = gr.Number(
            facts.steps,
            label="Steps",
            placeholder="default",
            precision=0,
            min_width=70,
            elem_id="dq-steps",
        )
        guidance = gr.Number(
            facts.guidance,
            label="Guidance",
            placeholder="default",
            min_width=70,
            elem_id="dq-guidance",
        )
    with gr.Accordion("Advanced", open=False, elem_id="dq-advanced"):
        ladder = gr.Checkbox(True, label="Yardstick ladder (takes longer)", elem_id="dq-ladder")
        calibration = gr.Textbox(
            FIRST_CALIBRATION, label="Calibration seeds", elem_id="dq-calibration"
        )
        with gr.Row():
            backend = gr.Dropdown(
                list(BACKENDS), value="auto", label="Backend", min_width=100, elem_id="dq-backend"
            )
            windows = gr.Number(
                1, label="Step windows", precision=0, min_width=100, elem_id="dq-windows"
            )
        with gr.Row():
            residency = gr.Dropdown(
                [("for speed", "speed"), ("for memory", "memory")],
                value="speed",
                label="Weights held",
                min_width=100,
                elem_id="dq-residency",
            )
            attention = gr.Dropdown(
                [("as the model", ""), ("int8", "int8")],
                value="",
                label="Attention scores",
                min_width=100,
                elem_id="dq-attention",
            )
        with gr.Row():
            size = gr.Textbox(
                "", label="Size", placeholder="height x width", min_width=100, elem_id="dq-size"
            )
            frames = gr.Textbox(
                "",
                label="Frames of a clip",
                placeholder="the model's own",
                min_width=100,
                elem_id="dq-frames",
            )
        options = gr.Textbox(
            "",
            label="Options",
            info="name=value, parted by spaces, e.g. viditq.alpha=0.5",
            elem_id="dq-options",
        )
        plan = gr.File(
            label="Plan (JSON), instead of bits", file_types=[".json"], height=96, elem_id="dq-plan"
        )
        candidates = gr.Textbox(
            label="Candidates",
            info="Folders of checkpoints that others quantized, one per line",
            lines=2,
            visible=bench.local_folders,
            elem_id="dq-candidates",
        )
        base = gr.Textbox(
            "",
            label="Base pipeline",
            info="Of a model that is a .safetensors file: a folder, a key or owner/name",
            visible=bench.local_folders,
            elem_id="dq-base",
        )
        loras = gr.Textbox(
            "",
            label="LoRAs",
            info="FILE.safetensors or FILE.safetensors:0.8, one per line; fused first",
            lines=2,
            visible=bench.local_folders,
            elem_id="dq-loras",
        )
    controls = Controls(
        model,
        runs,
        seeds,
        classes,
        prompts,
        steps,
        guidance,
        calibration,
        backend,
        residency,
        attention,
        windows,
        options,
        plan,
        candidates,
        ladder,
        negative,
        size,
        frames,
        base,
        loras,
    )
    return controls, about


def takes_prompts(facts: ModelFacts) -> bool:
    """Whether prompts may be given: the model takes them, or nobody knows yet."""
    return facts.takes_prompts is not False and not facts.classes


def class_choices(facts: ModelFacts) -> dict[str, Any]:
    """Properties of the class drop-down for a model."""
    return {
        "choices": [(name, key) for key, name in facts.classes.items()],
        "value": [],
        "multiselect": True,
        "label": "Classes",
        "info": "None takes all trained classes in turn",
        "allow_custom_value": not facts.classes,
        "visible": not facts.takes_prompts,
        "interactive": True,
    }


def escaped(text: str) -> str:
    """Text for a Markdown widget: a card's title is somebody else's text."""
    return "".join(
        "\\" + c if c in "\\`*_{}[]()#+-.!<>|~$&:" else c for c in text.replace("\n", " ")
    )


def form_of(controls: Controls, values: Sequence[Any]) -> Form:
    """The form of its controls' values; an empty text box is None when it was never shown."""
    named = dict(zip(vars(controls), values))
    texted = {name: named[name] or "" for name in TEXTS}
    return Form(**{**named, **texted, "runs": checked_runs(named["runs"])})


def filled_with(bench: Bench, filled: Form | None) -> list[Any]:
    """Controls, then the line about the model, as a form has them; unchanged without one."""
    if filled is None:
        return [gr.skip()] * (len(Controls.__dataclass_fields__) + 1)
    facts = bench.facts(filled.model)
    values: dict[str, Any] = {name: gr.update(value=value) for name, value in vars(filled).items()}
    choices = class_choices(facts)
    choices["value"] = list(filled.classes or ())
    values["classes"] = gr.update(**choices)
    for name in ("prompts", "negative"):
        values[name] = gr.update(value=getattr(filled, name), visible=takes_prompts(facts))
    steps, guidance = defaults(facts)
    values["steps"] = gr.update(value=filled.steps or steps)
    values["guidance"] = gr.update(value=guidance if filled.guidance is None else filled.guidance)
    values["plan"] = gr.skip()  # a file is handed in anew
    methods_json = offered_json(bench.methods, facts.adapted)
    values["runs"] = gr.update(value=filled.runs, methods_json=methods_json)
    return [*(values[name] for name in Controls.__dataclass_fields__), escaped(facts.about)]
