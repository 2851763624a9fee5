"""Learning what a method stores, step by step: one small trainer for every method that optimises something.

A method's module that learns has a function `learner(asked) -> Learner`. The trainer runs its steps, writes
losses into a log, keeps the learner's state on disk twice a minute and when it is stopped, and goes on from
there to the same result: a step depends on the state and its own number alone, so randomness in it comes
from generators seeded with both (`generator`). Teacher and student stay in eval mode; gradients still flow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .atomic import write_tensors
from .errors import BadInput
from .learning_log import read_log
from .schema import Plan, Value, fingerprint
from .storage import digest

if TYPE_CHECKING:
    from .attention_ranges import AttentionRange
    from .methods.base import Rounded
    from .models import Model
    from .seen import Seen
    from .site_groups import Groups

EVERY = 30.0  # seconds between two states on disk
LINES = 1000  # of losses in a log, about
SNAPSHOTS = 40  # of measures in a log, about
DIVERGED = 1e4  # times the least loss of a stage
LAYOUT = 1  # of the learners' states: a state of another layout is not gone on with


class Diverged(BadInput):
    """A loss or a learned number is no number any more, or ran away."""


@dataclass(frozen=True)
class Asked:
    """What a learner learns from."""

    model: Model
    plan: Plan  # as the method has it
    groups: Groups  # every group with its calibration statistics, weights read when asked for
    seen: Seen | None
    options: Any  # of the method
    seed: int


class Learner(Protocol):
    """What is learned, between two steps."""

    @property
    def steps(self) -> int:
        """Steps in all, preparation included where it takes long."""
        ...

    @property
    def stage(self) -> str:
        """What the next step works on, for people: `assignments`, `block 3: attention`."""
        ...

    def step(self, k: int) -> Mapping[str, float]:
        """Step k; gives losses to log, the one that is minimised as `loss`. May raise `Diverged`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that later steps and the result depend on, beside what it was made from."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        ...

    def measures(self) -> dict[str, Any]:
        """Small JSON about the present state for the method's views; what is long and stays is told once."""
        ...

    def rounded(self) -> Mapping[str, Rounded]:
        """The result by site name, after the last step."""
        ...


@runtime_checkable
class NamesWorst(Protocol):
    """A learner that knows which part of the network a loss is most of."""

    @property
    def worst(self) -> str:
        """Full name of a block or layer; of the last step."""
        ...


@runtime_checkable
class LearnsAttention(Protocol):
    """A learner that puts integers inside attentions too."""

    def attention(self) -> Mapping[str, AttentionRange]:
        """The ranges of attentions by name, after the last step."""
        ...


@dataclass(frozen=True)
class Progress:
    """One finished step."""

    step: int  # how many are done
    steps: int
    stage: str
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Learning:
    """Where a learning writes and whom it tells; without a folder it leaves no files.

    FOLDER/NAME.safetensors is the state of an unfinished learning, FOLDER/NAME.jsonl its log: lines
    {"step", "stage", "losses"} and {"step", "stage", "measures"}, the first line {"steps", "method", "key"}.
    """

    folder: Path | None = None
    name: str = "learning"
    on_step: Callable[[Progress], None] | None = None  # may raise `Cancelled`
    every: float = field(default=EVERY)

    @property
    def state_file(self) -> Path | None:
        """Of an unfinished learning."""
        return None if self.folder is None else self.folder / f"{self.name}.safetensors"

    @property
    def log_file(self) -> Path | None:
        """Of losses and measures."""
        return None if self.folder is None else self.folder / f"{self.name}.jsonl"

    def discard_state(self) -> None:
        """The result is stored elsewhere; the log stays."""
        if self.state_file is not None:
            self.state_file.unlink(missing_ok=True)


def generator(seed: int, *at: int | str) -> torch.Generator:
    """Random numbers of one place of a learning: the same wherever and whenever it comes there."""
    return torch.Generator().manual_seed(int(fingerprint([seed, *at])[:15], 16))


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Stop at a tensor that holds NaN or infinity; it is named by its layer."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Diverged(f"{name} holds NaN or infinity")


def learn(learner: Learner, method: str, key: str, learning: Learning | None = None) -> None:
    """Run a learner to its end, from where it was stopped if `key` names what was being learned.

    Raises `Diverged` with the place and the step; the last good state, if one was kept, stays on disk. So it does
    where a step is interrupted in the middle; between steps the state is kept before it stops.
    """
    to = learning or Learning()
    if to.folder is not None:
        to.folder.mkdir(parents=True, exist_ok=True)
    first = _restored(learner, to.state_file, key)
    log = _Log(to.log_file, {"steps": learner.steps, "method": method, "key": key}, first)
    kept_at, kept, done, between = time.monotonic(), first, first, True
    least: dict[str, float] = {}
    try:
        for k in range(first, learner.steps):
            stage = learner.stage
            between = False
            with _placed(stage, k, learner.steps, kept):
                losses = learner.step(k)
                _check_losses(losses, stage, least, learner)
            done, between = k + 1, True
            log.losses(k, stage, losses)
            log.measures(k, stage, learner)
            if to.on_step is not None:
                to.on_step(Progress(done, learner.steps, stage, losses))
            if time.monotonic() - kept_at >= to.every:
                kept = done if _keep(learner, to.state_file, key, done) else kept
                kept_at = time.monotonic()
    except BaseException:
        if between:
            _keep(learner, to.state_file, key, done)
        raise
    _keep(learner, to.state_file, key, done)


def key_of(asked: Asked, method: str) -> str:
    """Fingerprint of what is learned and from what."""
    options: Value = asked.options
    return fingerprint(
        {
            "model": asked.model.fingerprint,
            "weights": _digest(asked.model.transformer),
            "method": method,
            "options": options.to_json(),
            "plan": asked.plan.fingerprint,
            "seen": None if asked.seen is None else dict(asked.seen.manifest),
            "seed": asked.seed,
            "torch": torch.__version__,
            "layout": LAYOUT,
        }
    )


def _digest(transformer: nn.Module) -> str:
    return fingerprint({n: digest(t.cpu()) for n, t in transformer.state_dict().items()})


class _Log:
    """Losses and measures as JSON lines; those after the step where a learning goes on are dropped."""

    def __init__(self, path: Path | None, head: Mapping[str, Any], first: int) -> None:
        self._path, self._steps = path, int(head["steps"])
        if path is None:
            return
        held = read_log(path)
        kept = [line for line in held[1:] if line["step"] < first] if held[:1] == [head] else []
        path.write_text("".join(json.dumps(line) + "\n" for line in (head, *kept)), "utf-8")

    def losses(self, k: int, stage: str, losses: Mapping[str, float]) -> None:
        if _due(k, self._steps, LINES):
            self._write({"step": k, "stage": stage, "losses": dict(losses)})

    def measures(self, k: int, stage: str, learner: Learner) -> None:
        """Those of now; where nothing is written they are not asked for, as they take a while."""
        if self._path is not None and _due(k, self._steps, SNAPSHOTS):
            self._write({"step": k, "stage": stage, "measures": dict(learner.measures())})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")


def _due(k: int, steps: int, count: int) -> bool:
    """Whether step k is one of about `count` evenly spaced ones; first and last are."""
    return k == steps - 1 or k % max(1, steps // count) == 0


@contextmanager
def _placed(stage: str, k: int, steps: int, kept: int) -> Iterator[None]:
    try:
        yield
    except Diverged as error:
        said = f". The state of step {kept} is kept" if kept else ""
        raise Diverged(
            f"learning diverged at step {k} of {steps} ({stage}): {error}; try a smaller learning rate{said}"
        ) from None


def _check_losses(
    losses: Mapping[str, float], stage: str, least: dict[str, float], learner: Learner
) -> None:
    check_finite({f"the {name}": torch.tensor(value) for name, value in losses.items()})
    if "loss" in losses:
        loss = losses["loss"]
        if loss > DIVERGED * least.setdefault(stage, loss) > 0:
            where = f", most of it in {learner.worst}" if isinstance(learner, NamesWorst) else ""
            raise Diverged(f"the loss grew from {least[stage]:.3g} to {loss:.3g}{where}")
        least[stage] = min(least[stage], loss)


def _keep(learner: Learner, file: Path | None, key: str, done: int) -> bool:
    """Write the state; whether it was written, which one with NaN is not."""
    if file is None:
        return False
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.state().items()}
    if not all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point()):
        return False
    write_tensors(file, state, {"key": key, "step": str(done)}, durable=True)
    return True


def _restored(learner: Learner, file: Path | None, key: str) -> int:
    """Bring a learner to the state on disk; how many steps it has done."""
    if file is None or not file.is_file():
        return 0
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            if about.get("key") != key:
                return 0
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0
    learner.restore(state)
    return int(about["step"])
