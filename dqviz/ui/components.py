"""Gradio components of our own: gr.HTML whose content a script in `web/` draws from properties.

Factories instead of subclasses, since Gradio writes a stub file beside every subclass. The template
of each is one constant element, so that Gradio never replaces what JavaScript has drawn in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

# A module is loaded once per page; `watch` has to be called before it has arrived.
BOOT = """
const updates = {};
import(new URL('web/MODULE', document.baseURI))
  .then((module) => Object.assign(updates, module.KIND({element, props, trigger, server})));
for (const name of WATCHED) watch(name, () => updates[name]?.());
"""


def component(
    module: str, kind: str, css_class: str, watched: Sequence[str], **props: Any
) -> gr.HTML:
    """A component that the function `kind` of `web/MODULE` draws into an element of `css_class`.

    Args:
        watched: properties whose change is told to the function that `kind` returned for them.
        props: initial properties, and those of gr.HTML.
    """
    template = props.pop("html_template", f'<div class="{css_class}"></div>')
    return gr.HTML(
        html_template=template,
        js_on_load=BOOT.replace("MODULE", module)
        .replace("KIND", kind)
        .replace("WATCHED", json.dumps(list(watched))),
        apply_default_css=False,
        elem_classes=["dq-bare"],
        **props,
    )


def view(server_functions: Sequence[Callable[..., Any]], view_json: str, elem_id: str) -> gr.HTML:
    """A page: its sections, and the frames of a run that is being drawn."""
    return component(
        "view.js",
        "view",
        "dq-view",
        ("view_json", "live_json"),
        view_json=view_json,
        live_json=None,
        server_functions=list(server_functions),
        elem_id=elem_id,
    )


def status(elem_id: str) -> gr.HTML:
    """Progress with what, percent and time left; messages and errors.

    It triggers `tick` again and again until `status_json` says that the job of the id `follow` is over.
    """
    return component(
        "form.js",
        "status",
        "dq-status",
        ("status_json", "refused_json", "follow"),
        status_json=json.dumps({"state": "idle"}),
        refused_json="",
        follow="",
        elem_id=elem_id,
    )


def run_list(
    methods: Sequence[Mapping[str, Any]],
    presets: Sequence[str],
    value: Sequence[Mapping[str, str]],
    most: int,
    elem_id: str,
) -> gr.HTML:
    """Runs to make: a method with its bits each; the value is that list. `methods` as `offered` gives them."""
    return component(
        "form.js",
        "runlist",
        "dq-runlist",
        ("value", "methods_json", "presets_json"),
        value=list(value),
        label="Runs",
        methods_json=json.dumps(list(methods)),
        presets_json=json.dumps(list(presets)),
        most=most,
        elem_id=elem_id,
    )


def fit(card: Mapping[str, Any], text: str, elem_id: str) -> gr.HTML:
    """What a comparison would take, where it was asked (`pages.fit`); `text` is the form as it is now."""
    return component(
        "form.js",
        "fit",
        "dq-fitcard",
        ("card_json", "text"),
        card_json=json.dumps(card),
        text=text,
        elem_id=elem_id,
    )


def command(text: str, elem_id: str) -> gr.HTML:
    """The form as a command line, to copy."""
    return component("form.js", "command", "dq-inline", ("text",), text=text, elem_id=elem_id)


def frame(html: str, elem_id: str) -> gr.HTML:
    """The top bar; its markup is ours alone."""
    return component("frame.js", "frame", "", (), html_template=html, elem_id=elem_id)
