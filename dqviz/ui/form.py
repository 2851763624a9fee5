"""The form of the Compare page as values: what a person typed, and the request that it makes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quant.cards import methods
from quant.errors import BadInput, DQVizError, unknown
from quant.models import CARD_NAME, embedded_models
from quant.schema import options_from_pairs
from quant.support import families
from quant.weight_files import safetensors_header

from ..command_lines import as_command, seeds_text
from ..request import CALIBRATION_SEEDS, CompareRequest, check_fields, check_sampling

INDEX = "model_index.json"  # of a pipeline's folder
MOST_RUNS = 6
FIRST_RUNS = ({"method": "rtn", "bits": "w4a8"}, {"method": "viditq", "bits": "w4a8"})
FIRST_SEEDS = "0-3"
FIRST_CALIBRATION = seeds_text(CALIBRATION_SEEDS)


@dataclass(frozen=True)
class Form:
    """Every control by name, in the order in which the page lists them."""

    model: str | None
    runs: Sequence[Mapping[str, str]]
    seeds: str
    classes: Sequence[str] | None
    prompts: str
    steps: float | None
    guidance: float | None
    calibration: str = FIRST_CALIBRATION
    backend: str = "auto"
    residency: str = "speed"
    attention: str = ""  # format of attention scores; blank: as the model computes them
    windows: float | None = 1
    options: str = ""
    plan: str | None = None
    candidates: str = ""  # folders of foreign checkpoints, one per line
    ladder: bool = True
    negative: str = ""  # of prompts that have none of their own
    size: str = ""  # height x width in pixels
    frames: str = ""  # of a clip; blank or 0: the model's own
    base: str = ""  # the pipeline of a model that is a single file
    loras: str = ""  # FILE or FILE:SCALE, one per line

    @classmethod
    def of_request(cls, request: CompareRequest) -> Form:
        """The form that makes a request again; what the form has no control for is left out."""
        methods, bits = request.methods, request.bits
        widths = bits * len(methods) if len(bits) == 1 else bits or ("",) * len(methods)
        return cls(
            model=request.model,
            runs=[{"method": m, "bits": b} for m, b in zip(methods, widths)],
            seeds=seeds_text(request.seeds),
            classes=list(request.classes),
            prompts="\n".join(request.prompts),
            steps=request.steps,
            guidance=request.guidance,
            calibration=seeds_text(request.calibration_seeds),
            backend=request.backend,
            residency=request.residency,
            attention=request.attention or "",
            windows=request.windows,
            options=" ".join(_option(name, value) for name, value in request.options.items()),
            plan=None if request.plan is None else str(request.plan),
            candidates="\n".join(str(path) for path in request.candidates),
            ladder=request.ladder,
            negative=request.negative or "",
            size="" if request.size is None else "x".join(map(str, request.size)),
            frames="" if request.frames is None else str(request.frames),
            base=request.base or "",
            loras="\n".join(str(lora) for lora in request.loras or ()),
        )

    @classmethod
    def of_link(
        cls, asked: Mapping[str, str], first: str | None, facts: Callable[[str | None], ModelFacts]
    ) -> Form | None:
        """The form that a link names: method, bits, model and options as `option.alpha=0.4`.

        None for a link without a method. RTN at the same bits stands beside it.

        Args:
            asked: what the link says.
            first: the model where it names none.
            facts: what is known of a model.
        """
        method = asked.get("method")
        if not method:
            return None
        if method not in methods():
            raise unknown("method in the link", method, methods())
        model, bits = asked.get("model") or first, asked.get("bits") or "w4a8"
        given = {k.removeprefix("option."): v for k, v in asked.items() if k.startswith("option.")}
        read = options_from_pairs([f"{name}={value}" for name, value in given.items()])
        known = facts(model)
        return cls(
            model=model,
            runs=[{"method": m, "bits": bits} for m in dict.fromkeys(("rtn", method))],
            seeds=FIRST_SEEDS,
            classes=(),
            prompts="",
            steps=known.steps,
            guidance=known.guidance,
            options=" ".join(_option(f"{method}.{name}", value) for name, value in read.items()),
        )

    def request(self, local_folders: bool = True) -> CompareRequest:
        """The request that this form makes; BadInput names what cannot be done.

        Args:
            local_folders: whether a folder of this machine may be named as a model.
        """
        model = (self.model or "").strip()
        if not model:
            raise BadInput("no model was chosen; take one from the list, or type owner/name")
        if not local_folders and names_a_folder(model):
            raise BadInput(
                f"model '{model}' is a folder; while others can reach this app, only embedded and hub models load"
            )
        candidates = [line.strip() for line in self.candidates.splitlines() if line.strip()]
        if candidates and not local_folders:
            raise BadInput(
                f"candidate '{candidates[0]}' is a folder of this machine; while others can reach "
                "this app, none is opened"
            )
        loras = [line.strip() for line in self.loras.splitlines() if line.strip()]
        if not local_folders and (loras or names_a_folder(self.base.strip() or model)):
            raise BadInput(
                f"'{(loras or [self.base.strip()])[0]}' is a file of this machine; while others can reach "
                "this app, none is opened"
            )
        if not self.runs and not candidates:
            raise BadInput(
                "no run was asked for; add one with a method and bits, e.g. RTN with w4a8"
            )
        if len(self.runs) + len(candidates) > MOST_RUNS:
            raise BadInput(
                f"{len(self.runs) + len(candidates)} runs are too many for one page; at most {MOST_RUNS}"
            )
        check_sampling(_whole(self.steps, "steps"), self.guidance)
        plan = self.plan
        return CompareRequest.parse(
            {
                "model": model,
                "base": self.base.strip() or None,
                "loras": loras or None,
                "methods": [str(r["method"]) for r in self.runs],
                "bits": [] if plan else _shortest([str(r["bits"]) for r in self.runs]),
                "plan": plan,
                "candidates": candidates,
                "seeds": self.seeds.strip(),
                "classes": [str(c) for c in self.classes or ()],
                "prompts": [line.strip() for line in self.prompts.splitlines() if line.strip()],
                "steps": _whole(self.steps, "steps"),
                "guidance": self.guidance,
                "options": options_from_pairs(self.options.split()),
                "windows": _whole(self.windows, "windows") or 1,
                "calibration_seeds": self.calibration.strip() or FIRST_CALIBRATION,
                "backend": self.backend,
                "residency": self.residency,
                "attention": self.attention or None,
                "ladder": self.ladder,
                "negative": self.negative.strip() or None,
                "size": self.size.strip() or None,
                "frames": _frames(self.frames),
            },
            "the form",
        )

    def command(self, out: Path | None = None) -> str:
        """The form as a command line; while something is unfinished, what is missing.

        Args:
            out: folder that the runs go to, where it is not the model's own.
        """
        try:
            request = self.request()
            check_fields(request)
            return as_command(request.model_copy(update={"out": out}))
        except BadInput as error:
            return f"# {error}"


def _option(name: str, value: object) -> str:
    """`name=value` in one word: the text box of options is read word by word."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return f"{name}={''.join(text.split())}"


def names_a_folder(model: str) -> bool:
    """Whether a model reference means a path of this machine."""
    if model in embedded_models():
        return False
    written = model.startswith((".", "/", "~", "\\")) or Path(model).exists()
    return written or model.partition("@")[0].count("/") != 1


def checked_runs(value: object) -> list[dict[str, str]]:
    """The run list as the browser sent it; anything but short texts is refused."""
    if not isinstance(value, list):
        raise BadInput("the run list is not a list")
    runs: list[dict[str, str]] = []
    for entry in value:
        texts = isinstance(entry, dict) and [entry.get("method"), entry.get("bits")]
        if not texts or not all(isinstance(t, str) and len(t) <= 64 for t in texts):
            raise BadInput("a run is not a method with bits")
        runs.append({"method": str(texts[0]), "bits": str(texts[1])})
    return runs


def _shortest(bits: Sequence[str]) -> list[str]:
    """One width for all where all agree, else one each."""
    return list(bits[:1]) if len(set(bits)) == 1 else list(bits)


def _whole(value: float | None, what: str) -> int | None:
    if value is None:
        return None
    if value != int(value):
        raise BadInput(f"{what} {value:g} is not a whole number")
    return int(value)


def _frames(text: str) -> int | None:
    """Frames of a clip; None is the model's own."""
    written = text.strip()
    if not written:
        return None
    if not written.isdecimal():
        raise BadInput(
            f"frames '{written}' is not a whole number; leave the box blank for the model's own"
        )
    return int(written) or None


@dataclass(frozen=True)
class ModelFacts:
    """What the form needs to know of a model before it is loaded; empty where only loading tells."""

    classes: Mapping[str, str] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    steps: int | None = None
    guidance: float | None = None
    takes_prompts: bool | None = None  # None: unknown until it is loaded
    draws: str = "image"  # or video, as far as that is known
    adapted: bool = True  # whether its transformer has an adapter, as far as that is known
    about: str = ""

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> ModelFacts:
        """From an embedded model's listing or a folder's card, which may be anybody's."""
        named, steps, guidance = (card.get(key) for key in ("classes", "steps", "guidance"))
        classes = {str(k): str(v) for k, v in named.items()} if isinstance(named, dict) else {}
        given = card.get("prompts")
        prompts = tuple(map(str, given)) if isinstance(given, (list, tuple)) else ()
        task = str(card.get("task") or "")
        parts = [task.replace("-", " "), _count(len(classes), "class", "classes")]
        parts.append(
            "" if classes else _count(len(prompts), "prompt of its own", "prompts of its own")
        )
        if card.get("params"):
            parts.append(f"{card['params'] / 1e6:.1f} M parameters")
        return cls(
            classes=classes,
            prompts=prompts,
            steps=steps if isinstance(steps, int) else None,
            guidance=guidance if isinstance(guidance, int | float) else None,
            takes_prompts=task.startswith("text") if task else not classes,
            draws="video" if task.endswith("-to-video") else "image",
            about=" · ".join(p for p in parts if p),
        )


def model_facts(ref: str | None, listed: Sequence[Mapping[str, Any]], folders: bool) -> ModelFacts:
    """Facts of an embedded model, or of a folder: its card over its family; else nothing is known yet."""
    for card in listed:
        if card["key"] == ref:
            return ModelFacts.of_card(card)
    folder = Path(ref or "")
    if folders and ref and (folder / CARD_NAME).is_file():
        facts = ModelFacts.of_card(_read(folder / CARD_NAME) | {"params": _params(folder)})
        title = str(
            _read(folder / CARD_NAME).get("title") or ""
        )  # a list shows it, a path does not
        facts = replace(facts, about=" · ".join(filter(None, (title, facts.about))))
    else:
        unread = "Classes, prompts and defaults are read when the model loads." if ref else ""
        facts = ModelFacts(about=unread)
    part = _read(folder / INDEX).get("transformer") if folders and ref else None
    if not isinstance(part, list):
        return facts
    family = families().get(str(part[-1]))
    if family is None:
        return replace(facts, adapted=False)
    steps = family.steps if facts.steps is None else facts.steps
    guidance = family.guidance if facts.guidance is None else facts.guidance
    return replace(facts, steps=steps, guidance=guidance, draws=family.draws)


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}" if n else ""


def _params(folder: Path) -> int:
    """Numbers in a folder's transformer, from the headers of its files; 0 where they do not tell."""
    files = sorted((folder / "transformer").glob("*.safetensors"))
    try:
        headers = [safetensors_header(file) for file in files]
        tensors = [v for h in headers for name, v in h.items() if name != "__metadata__"]
        return sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (DQVizError, OSError, KeyError, TypeError):
        return 0


def _read(file: Path) -> dict[str, Any]:
    """A JSON object of somebody's folder; empty where there is none, or another thing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
