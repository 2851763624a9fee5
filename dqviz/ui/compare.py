"""Widgets and handlers of the Compare page; what it shows comes from `dqviz.pages.compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.context import Context

from quant.errors import DQVizError

from ..catalogue import list_methods, list_models
from ..pages import compare as page
from ..request import BACKENDS, CompareRequest
from . import components
from .desk import Desk
from .form import (
    FIRST_CALIBRATION,
    FIRST_RUNS,
    FIRST_SEEDS,
    MOST_RUNS,
    PRESETS,
    Form,
    ModelFacts,
    checked_runs,
    model_facts,
)
from .library import Library
from .progress import IDLE, Screen, Show, failed

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def engine_compare(
    request: CompareRequest, on_event: Callable[..., None], cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """The real comparison; torch is loaded with the first one."""
    from ..comparison import compare

    return compare(request, on_event, cancelled)


@dataclass
class Bench:
    """What the page's handlers work with; tests hand in a `compare` of their own."""

    compare: Callable[..., dict[str, Any]] = engine_compare
    library: Library = field(default_factory=Library)
    local_folders: bool = True
    models: Sequence[Mapping[str, Any]] = field(default_factory=list_models)
    methods: Sequence[Mapping[str, Any]] = field(default_factory=list_methods)

    def __post_init__(self) -> None:
        """One desk for the whole process."""
        self.desk = Desk(self.compare)

    def facts(self, model: str | None) -> ModelFacts:
        """What the form needs to know of a model."""
        return model_facts(model, self.models, self.local_folders)

    # -- handlers, without Gradio: values in, screens out

    def run(self, session: str, form: Form) -> Iterator[Screen]:
        """Screens of one comparison; closing the generator cancels it."""
        try:
            request = form.request(self.local_folders)
        except DQVizError as error:
            yield failed(str(error))
            return
        job = self.desk.start(session, request)
        try:
            yield from Show(job, self.library, self._known(request.model)).screens()
        finally:
            self.desk.forget(session, job)

    def _known(self, model: str) -> dict[str, Any]:
        facts = self.facts(model)
        listed = next((m for m in self.models if m["key"] == model), None)
        return {
            "key": model,
            "title": listed["title"] if listed else model,
            "classes": dict(facts.classes),
        }

    def opened(self, study: str | None) -> Screen:
        """The page when it is opened, or when a study is chosen."""
        try:
            return Screen(IDLE.status, self.library.first_view(study), running=False)
        except DQVizError as error:
            shown = failed(str(error), "Study not shown:")
            return Screen(shown.status, page.empty(), running=False)


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
    ladder: gr.Checkbox

    def all(self) -> list[Any]:
        """As inputs of a handler."""
        return list(vars(self).values())


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    first = bench.models[0]["key"] if bench.models else None
    with gr.Row(elem_id="dq-page"):
        with gr.Column(elem_id="dq-form"):
            controls, about = _controls(bench, first)
            with gr.Row(elem_id="dq-actions"):
                run = gr.Button("Run", elem_id="dq-run", variant="primary")
                cancel = gr.Button("Cancel", elem_id="dq-cancel", interactive=False)
            text = Form(
                first, FIRST_RUNS, FIRST_SEEDS, (), "", *_defaults(bench.facts(first))
            ).command()
            line = components.command(text, "dq-line")
        with gr.Column(elem_id="dq-results"):
            status = components.status("dq-status")
            study = gr.Dropdown(
                [], label="Study", visible=False, interactive=True, elem_id="dq-study"
            )
            result = components.view(_server_functions(bench), page.empty().to_json(), "dq-result")
    _wire(bench, controls, about, run, cancel, line, status, study, result)


def _defaults(facts: ModelFacts) -> tuple[int | None, float | None]:
    return facts.steps, facts.guidance


def _controls(bench: Bench, first: str | None) -> tuple[Controls, gr.Markdown]:
    facts = bench.facts(first)
    model = gr.Dropdown(
        [(str(m["title"]), str(m["key"])) for m in bench.models],
        value=first,
        label="Model",
        info="From the list, or type a folder or owner/name",
        allow_custom_value=True,
        elem_id="dq-model",
    )
    about = gr.Markdown(_escaped(facts.about), elem_id="dq-about")
    keys = {m["key"] for m in bench.methods}
    runs = components.run_list(
        bench.methods,
        PRESETS,
        [r for r in FIRST_RUNS if r["method"] in keys],
        MOST_RUNS,
        "dq-runs",
    )
    classes = gr.Dropdown(**_class_choices(facts), elem_id="dq-classes")
    prompts = gr.Textbox(
        label="Prompts",
        info="One per line; none takes the model's own",
        lines=3,
        visible=bool(facts.takes_prompts),
        elem_id="dq-prompts",
    )
    with gr.Row():
        seeds = gr.Textbox(FIRST_SEEDS, label="Seeds", min_width=80, elem_id="dq-seeds")
        steps = gr.Number(
            facts.steps, label="Steps", precision=0, minimum=1, min_width=70, elem_id="dq-steps"
        )
        guidance = gr.Number(
            facts.guidance, label="Guidance", minimum=0, min_width=70, elem_id="dq-guidance"
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
                1, label="Step windows", precision=0, minimum=1, min_width=100, elem_id="dq-windows"
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
        ladder,
    )
    return controls, about


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
    line: gr.HTML,
    status: gr.HTML,
    study: gr.Dropdown,
    result: gr.HTML,
) -> None:
    """Connect widgets and handlers."""

    def form(values: Sequence[Any]) -> Form:
        """The form; an empty text box is None when it was never shown."""
        named = dict(zip(vars(controls), values))
        texts = ("seeds", "prompts", "calibration", "options")
        texted = {name: named[name] or "" for name in texts}
        return Form(**{**named, **texted, "runs": checked_runs(named["runs"])})

    def on_run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        session = str(request.session_hash)
        try:
            filled = form(values)
        except DQVizError as error:
            yield _updates(failed(str(error)))
            return
        for screen in bench.run(session, filled):
            yield _updates(screen)

    def on_cancel(request: gr.Request) -> Any:
        bench.desk.cancel(str(request.session_hash))
        return gr.update(interactive=False, value="Cancelling…")

    def on_model(ref: str | None) -> list[Any]:
        facts = bench.facts(ref)
        return [
            _escaped(facts.about),
            gr.update(**_class_choices(facts)),
            gr.update(visible=facts.takes_prompts is not False and not facts.classes),
            *_defaults(facts),
        ]

    def on_form(*values: Any) -> Any:
        try:
            return gr.update(text=form(values).command())
        except DQVizError as error:
            return gr.update(text=f"# {error}")

    def on_load(request: gr.Request) -> list[Any]:
        name = request.query_params.get("study")
        names = list(bench.library.folders())
        shown = bench.opened(name)
        known = name if name in names else (names[0] if names and not name else None)
        drop_down = gr.update(choices=names, value=known, visible=len(names) > 1)
        return [_status(shown), _result(shown), drop_down]

    def on_study(name: str | None) -> list[Any]:
        shown = bench.opened(name)
        return [_status(shown), _result(shown)]

    run.click(
        on_run,
        controls.all(),
        [status, result, run, cancel],
        concurrency_limit=None,
        trigger_mode="once",
        **PRIVATE,
    )
    cancel.click(on_cancel, None, cancel, queue=False, **PRIVATE)
    controls.model.change(
        on_model,
        controls.model,
        [about, controls.classes, controls.prompts, controls.steps, controls.guidance],
        **PRIVATE,
    )
    gr.on(
        [c.change for c in controls.all()],
        on_form,
        controls.all(),
        line,
        trigger_mode="always_last",
        **PRIVATE,
    )
    study.input(on_study, study, [status, result], **PRIVATE)
    blocks = Context.root_block
    assert blocks is not None
    blocks.load(on_load, None, [status, result, study], **PRIVATE)


def _updates(screen: Screen) -> list[Any]:
    """A screen as updates of status, result, Run and Cancel."""
    idle = not screen.running
    return [
        _status(screen),
        _result(screen),
        gr.update(interactive=idle),
        gr.update(interactive=not idle and screen.status["state"] != "cancelling", value="Cancel"),
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
