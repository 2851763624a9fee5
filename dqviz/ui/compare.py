"""Widgets and handlers of the Compare page; what it shows comes from `dqviz.pages.compare`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import gradio as gr
from gradio.context import Context
from gradio.events import Dependency

from quant.errors import DQVizError

from ..pages import compare as page
from ..request import BACKENDS
from ..studies import place
from ..study import default_folder, is_recorded
from . import components, fit
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
from .progress import PATIENCE, Screen, failed

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
LONGEST_FAREWELL = 5.0  # seconds
HIDDEN: Literal["hidden"] = "hidden"  # and still in the page: what is not there sends no value
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


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


class _Follower:
    """A handler that tells a tab about one job, until another is told there."""

    def __init__(self) -> None:
        self.replaced = asyncio.Event()
        self.ended = asyncio.Event()

    async def replace(self) -> None:
        """End it; what it still says arrives before this returns, if its browser is there at all."""
        self.replaced.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), LONGEST_FAREWELL)

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until it is replaced."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.replaced.wait(), seconds)


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    first = bench.models[0]["key"] if bench.models else None
    with gr.Row(elem_id="dq-page"):
        with gr.Column(elem_id="dq-form"):
            controls, about = _controls(bench, first)
            with gr.Row(elem_id="dq-actions"):
                run = gr.Button("Run", elem_id="dq-run", variant="primary")
                check = fit.button()
                cancel = gr.Button("Cancel", elem_id="dq-cancel", interactive=False)
            text = Form(
                first, FIRST_RUNS, FIRST_SEEDS, (), "", *_defaults(bench.facts(first))
            ).command()
            answer = fit.answer(text)
            line = components.command(text, "dq-line")
        with gr.Column(elem_id="dq-results"):
            status = components.status("dq-status")
            study = gr.Dropdown(
                [], label="Study", visible=HIDDEN, interactive=True, elem_id="dq-study"
            )
            result = components.view(_server_functions(bench), page.empty().to_json(), "dq-result")
    form = partial(_form, controls)
    _wire(bench, controls, about, run, cancel, status, study, result)
    asked = fit.wire(check, answer, controls.all(), form, bench.local_folders)
    _wire_texts(bench, controls, study, line, answer, asked)


def _defaults(facts: ModelFacts) -> tuple[int | None, float | None]:
    return facts.steps, facts.guidance


def _controls(bench: Bench, first: str | None) -> tuple[Controls, gr.Markdown]:
    facts = bench.facts(first)
    model = gr.Dropdown(
        [(str(m["title"]), str(m["key"])) for m in bench.models],
        value=first,
        label="Model",
        info="From the list, or type a folder, a .safetensors file or owner/name",
        allow_custom_value=True,
        elem_id="dq-model",
    )
    about = gr.Markdown(_escaped(facts.about), elem_id="dq-about")
    keys = {m["key"] for m in bench.methods}
    runs = components.run_list(
        offered(bench.methods, facts.adapted),
        PRESETS,
        [r for r in FIRST_RUNS if r["method"] in keys],
        MOST_RUNS,
        "dq-runs",
    )
    classes = gr.Dropdown(**_class_choices(facts), elem_id="dq-classes")
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


def _takes_prompts(facts: ModelFacts) -> bool:
    """Whether prompts may be given: the model takes them, or nobody knows yet."""
    return facts.takes_prompts is not False and not facts.classes


def _class_choices(facts: ModelFacts) -> dict[str, Any]:
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


def _escaped(text: str) -> str:
    """Text for a Markdown widget: a card's title is somebody else's text."""
    return "".join(
        "\\" + c if c in "\\`*_{}[]()#+-.!<>|~$&:" else c for c in text.replace("\n", " ")
    )


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
    form = partial(_form, controls)
    shown = gr.State(None)  # id of the job that this tab follows
    followers: dict[str, _Follower] = {}  # the latest of every tab

    def on_run(*values: Any) -> list[Any]:
        *filled, open_study = values
        try:
            return [gr.skip(), bench.submit(form(filled), open_study).id]
        except DQVizError as error:
            return [_status(failed(str(error))), None]

    async def on_follow(
        job_id: str | None, open_study: str | None, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        if not job_id:
            yield [gr.skip()] * 5
            return
        session, me = str(request.session_hash), _Follower()
        before, followers[session] = followers.get(session), me
        if before is not None:
            await before.replace()
        follow = bench.follow(job_id, open_study)
        try:
            while not me.replaced.is_set() and not follow.over:
                screen = await asyncio.to_thread(follow.look)
                if screen is not None and not me.replaced.is_set():
                    yield [*_updates(screen), _studies(bench, screen)]
                if not follow.over:  # an end that comes late would be told over what is asked next
                    await me.sleep(PATIENCE)
            yield [gr.skip()] * 5  # Gradio says the last update again when the handler has ended
        finally:
            me.ended.set()
            if followers.get(session) is me:
                del followers[session]

    def on_cancel(job_id: str | None) -> list[Any]:
        button = gr.update(interactive=False, value="Cancelling…")
        return [button, bench.cancel(job_id) if job_id else None]

    def on_model(ref: str | None) -> list[Any]:
        facts = bench.facts(ref)
        texts = gr.update(visible=_takes_prompts(facts))
        return [
            _escaped(facts.about),
            gr.update(methods_json=offered_json(bench.methods, facts.adapted)),
            gr.update(**_class_choices(facts)),
            texts,
            texts,
            *_defaults(facts),
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
        return [_status(screen), _result(screen), drop_down, job, *_filled(bench, filled)]

    def on_study(name: str | None) -> list[Any]:
        screen = bench.opened(name)
        return [_status(screen), _result(screen), *_filled(bench, bench.form_of(name))]

    following: dict[str, Any] = {
        "fn": on_follow,
        "inputs": [shown, study],
        "outputs": [status, result, run, cancel, study],
        "concurrency_limit": None,
        "trigger_mode": "multiple",
        **PRIVATE,
    }
    form_outputs = [*controls.all(), about]
    run.click(on_run, [*controls.all(), study], [status, shown], **PRIVATE).then(**following)
    cancelled = cancel.click(on_cancel, shown, [cancel, shown], queue=False, **PRIVATE)
    cancelled.then(**following)
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
    study.input(on_study, study, [status, result, *form_outputs], **PRIVATE)
    blocks = Context.root_block
    assert blocks is not None
    loaded = blocks.load(on_load, None, [status, result, study, shown, *form_outputs], **PRIVATE)
    loaded.then(**following)


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
            form = _form(controls, filled)
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


def _form(controls: Controls, values: Sequence[Any]) -> Form:
    """The form of its controls' values; an empty text box is None when it was never shown."""
    named = dict(zip(vars(controls), values))
    texted = {name: named[name] or "" for name in TEXTS}
    return Form(**{**named, **texted, "runs": checked_runs(named["runs"])})


def command_of(bench: Bench, form: Form, open_study: str | None) -> str:
    """The form as a command that does what Run does; the study's folder is said where it is not the model's own."""
    folder = None if form.model is None else bench.folder_of(form.model, open_study)
    if folder is None or place(folder).resolve() == default_folder(form.model or "").resolve():
        return form.command()
    return form.command(place(folder))


def _filled(bench: Bench, filled: Form | None) -> list[Any]:
    """Controls, then the line about the model, as a form has them; unchanged without one."""
    if filled is None:
        return [gr.skip()] * (len(Controls.__dataclass_fields__) + 1)
    facts = bench.facts(filled.model)
    values: dict[str, Any] = {name: gr.update(value=value) for name, value in vars(filled).items()}
    choices = _class_choices(facts)
    choices["value"] = list(filled.classes or ())
    values["classes"] = gr.update(**choices)
    for name in ("prompts", "negative"):
        values[name] = gr.update(value=getattr(filled, name), visible=_takes_prompts(facts))
    steps, guidance = _defaults(facts)
    values["steps"] = gr.update(value=filled.steps or steps)
    values["guidance"] = gr.update(value=guidance if filled.guidance is None else filled.guidance)
    values["plan"] = gr.skip()  # a file is handed in anew
    methods_json = offered_json(bench.methods, facts.adapted)
    values["runs"] = gr.update(value=filled.runs, methods_json=methods_json)
    return [*(values[name] for name in Controls.__dataclass_fields__), _escaped(facts.about)]


def _studies(bench: Bench, screen: Screen) -> Any:
    """The list of studies once a job is over: it may have made one."""
    address = screen.view.address if screen.view is not None else None
    if screen.running or not address:
        return gr.skip()
    names = list(bench.library.folders())
    return gr.update(choices=names, value=address, visible=True if len(names) > 1 else HIDDEN)


def _updates(screen: Screen) -> list[Any]:
    """A screen as updates of status, result, Run and Cancel."""
    stoppable = screen.running and screen.status["state"] != "cancelling"
    return [
        _status(screen),
        _result(screen),
        gr.update(value="Run next" if screen.running else "Run"),
        gr.update(interactive=stoppable, value="Cancel"),
    ]


def _status(screen: Screen) -> Any:
    return gr.update(status_json=screen.status_json)


def _result(screen: Screen) -> Any:
    changed: dict[str, Any] = {}
    if screen.view is not None:
        changed["view_json"] = screen.view.to_json()
    if screen.live is not None:
        changed["live_json"] = screen.live_json
    return gr.update(**changed) if changed else gr.skip()


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 10 else None
