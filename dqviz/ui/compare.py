"""Handlers of the Compare page; what it shows comes from `dqviz.pages.compare`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.context import Context
from gradio.events import Dependency

from quant.errors import DQVizError

from ..pages import compare as page
from ..studies import place
from ..study_folder import default_folder, is_recorded
from . import components, fit
from .bench import Bench
from .controls import (
    Controls,
    class_choices,
    controls_of,
    defaults,
    escaped,
    filled_with,
    form_of,
    takes_prompts,
)
from .following import HIDDEN, followed, opened, refused, result_of, told
from .form import FIRST_RUNS, FIRST_SEEDS, Form
from .offered import offered_json
from .progress import Follow, failed

# Plain requests: what one handler says never waits for a stream that the browser closes after another.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    first = bench.models[0]["key"] if bench.models else None
    with gr.Row(elem_id="dq-page"):
        with gr.Column(elem_id="dq-form"):
            controls, about = controls_of(bench, first)
            with gr.Row(elem_id="dq-actions"):
                run = gr.Button("Run", elem_id="dq-run", variant="primary")
                check = fit.button()
                cancel = gr.Button("Cancel", elem_id="dq-cancel", interactive=False)
            text = Form(
                first, FIRST_RUNS, FIRST_SEEDS, (), "", *defaults(bench.facts(first))
            ).command()
            answer = fit.answer(text)
            line = components.command(text, "dq-line")
        with gr.Column(elem_id="dq-results"):
            status = components.status("dq-status")
            study = gr.Dropdown(
                [], label="Study", visible=HIDDEN, interactive=True, elem_id="dq-study"
            )
            result = components.view(_server_functions(bench), page.empty().to_json(), "dq-result")
    form = partial(form_of, controls)
    _wire(bench, controls, about, run, cancel, status, study, result)
    asked = fit.wire(check, answer, controls.all(), form, bench.local_folders)
    _wire_texts(bench, controls, study, line, answer, asked)


def _server_functions(bench: Bench) -> list[Callable[..., Any]]:
    """What the page asks for by itself: more pictures, files of a study."""

    def answer(ask: Callable[[Mapping[str, Any]], dict[str, Any]], query: Any) -> dict[str, Any]:
        query = query[0] if isinstance(query, list) and len(query) == 1 else query
        try:
            return ask(query if isinstance(query, dict) else {})
        except DQVizError as error:
            return {"error": str(error)}

    def pictures(query: Any) -> dict[str, Any]:
        return answer(bench.library.pictures, query)

    def study_file(query: Any) -> dict[str, Any]:
        return answer(bench.library.file, query)

    return [pictures, study_file]


def _wire(
    bench: Bench,
    controls: Controls,
    about: gr.Markdown,
    run: gr.Button,
    cancel: gr.Button,
    status: gr.HTML,
    study: gr.Dropdown,
    result: gr.HTML,
) -> None:
    """Connect widgets and handlers."""
    form = partial(form_of, controls)
    shown, follow = gr.State(None), gr.State(None)  # the job that this tab follows: its id; how far

    def on_run(*values: Any) -> list[Any]:
        *filled, open_study = values
        try:
            job = bench.submit(form(filled), open_study)
        except DQVizError as error:
            return [refused(failed(str(error))), gr.skip()]
        return [followed(job.id), job.id]

    def on_cancel(job_id: str | None) -> list[Any]:
        button = gr.update(interactive=False, value="Cancelling…")
        try:
            other = bench.cancel(job_id) if job_id else None
        except DQVizError as error:
            return [button, refused(failed(str(error))), gr.skip()]
        return [button, followed(other), other]

    def on_model(ref: str | None) -> list[Any]:
        facts = bench.facts(ref)
        texts = gr.update(visible=takes_prompts(facts))
        return [
            escaped(facts.about),
            gr.update(methods_json=offered_json(bench.methods, facts.adapted)),
            gr.update(**class_choices(facts)),
            texts,
            texts,
            *defaults(facts),
        ]

    def on_load(request: gr.Request) -> list[Any]:
        asked = request.query_params
        name, comparison = asked.get("study"), _number(asked.get("comparison"))
        job = bench.attached(asked.get("job"), name, comparison)
        screen = bench.opened(name, comparison)
        names = list(bench.library.folders())
        known = name if name in names else (None if name else bench.library.first())
        drop_down = gr.update(
            choices=names, value=known, visible=True if len(names) > 1 else HIDDEN
        )
        # A recorded study that nobody asked for leaves the form as it is: its first Run stays short.
        asked_for = name or (known and not is_recorded(bench.library.folders()[known]))
        filled = bench.form_of(known, comparison) if asked_for else None
        filled = bench.form_of_job(job) if job else filled
        try:
            filled = bench.form_of_link(asked) or filled
        except DQVizError as error:
            screen = replace(screen, status=failed(str(error), "Link not followed:").status)
        status_update = {**refused(screen), "follow": job or ""}
        return [status_update, result_of(screen), drop_down, job, *filled_with(bench, filled)]

    def on_study(name: str | None, follow: Follow | None) -> list[Any]:
        screen = bench.opened(name)
        filled = filled_with(bench, bench.form_of(name))
        strip, follow = opened(bench, name, screen, follow)
        return [strip, follow, result_of(screen), *filled]

    status.tick(
        partial(told, bench),
        [shown, study, follow],
        [status, result, run, cancel, study, follow],
        **PRIVATE,
    )
    form_outputs = [*controls.all(), about]
    run.click(on_run, [*controls.all(), study], [status, shown], **PRIVATE)
    cancel.click(on_cancel, shown, [cancel, status, shown], **PRIVATE)
    controls.model.input(
        on_model,
        controls.model,
        [
            about,
            controls.runs,
            controls.classes,
            controls.prompts,
            controls.negative,
            controls.steps,
            controls.guidance,
        ],
        **PRIVATE,
    )
    study.input(on_study, [study, follow], [status, follow, result, *form_outputs], **PRIVATE)
    blocks = Context.root_block
    assert blocks is not None
    blocks.load(on_load, None, [status, result, study, shown, *form_outputs], **PRIVATE)


def _wire_texts(
    bench: Bench,
    controls: Controls,
    study: gr.Dropdown,
    line: gr.HTML,
    answer: gr.HTML,
    asked: Dependency,
) -> None:
    """Let the form as a command, and what is said of it, follow the form."""

    def on_form(*values: Any) -> list[Any]:
        *filled, open_study = values
        try:
            form = form_of(controls, filled)
            texts = command_of(bench, form, open_study), form.command()
        except DQVizError as error:
            texts = f"# {error}", ""
        return [gr.update(text=text) for text in texts]

    gr.on(
        [c.change for c in (*controls.all(), study)],
        on_form,
        [*controls.all(), study],
        [line, answer],
        trigger_mode="always_last",
        cancels=[asked],  # so that the form as it is now can be asked about at once
        **PRIVATE,
    )


def command_of(bench: Bench, form: Form, open_study: str | None) -> str:
    """The form as a command that does what Run does; the study's folder is said where it is not the model's own."""
    folder = None if form.model is None else bench.folder_of(form.model, open_study)
    if folder is None or place(folder).resolve() == default_folder(form.model or "").resolve():
        return form.command()
    return form.command(place(folder))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 10 else None
