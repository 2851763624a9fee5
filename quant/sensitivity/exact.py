"""Tier 4: generate with only that cell rounded, and with everything rounded but it.

    latent_error = ||z' - z||^2 / ||z||^2          z full precision's final latent of the same seed
    ssim_loss    = 1 - SSIM, and so on for every metric of pictures or clips that is finite for equal ones
    log_prob_loss = log p(class | full precision's picture) - log p(class | this one), where there is a classifier

and `<metric>_saved` = cost of rounding every asked site at these bits, minus the same with this cell left alone:
what the cell adds where the others are rounded too. It may be negative. (ViDiT-Q, arXiv 2406.02540, measures
single cells; both ways are ours, because costs that add up in one direction need not in the other.)

Before its window nothing differs from full precision, so a cell starts from there, from full precision's latents
and a copy of the scheduler's state; everything-but-one starts from the run with everything rounded. Averaged over
W windows of equally many steps that leaves (W + 1) / 2W of the evaluations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..evaluate import Classifier
from ..metrics import list_metrics, load_metric
from ..metrics.latent_error import measure as relative_error
from ..models import Model
from ..pixels import PICTURES
from ..schema import Sample
from ..step import window_of
from . import TierCard
from .cells import Cell, Row
from .rounded import Switched, Where
from .sampling import Replay, Run
from .task import Task

CARD = TierCard(
    key="exact",
    title="Exact flips",
    order=4,
    metrics=("latent_error",),
    flips=True,
    summary="Pictures with only that cell rounded, and with all but it. Hours; prefixes are drawn once.",
)

Costs = dict[str, np.ndarray]  # float64[n] by metric


def metrics(task: Task) -> tuple[str, ...]:
    """Of the latents and, where the settings ask for them, of pictures."""
    found = Judge(task.model, task.settings.pictures, task.classifier, task.samples).expected(task)
    return (*found, *(f"{m}_saved" for m in found)) if task.settings.both_ways else found


def rows(task: Task) -> Iterator[list[Row]]:
    """Cell by cell; cells of one operand and one width share their layers and the run with all rounded."""
    drawer, network = task.drawer, task.model.transformer
    marks = {steps[0] for steps in task.steps if steps} | {0}
    done = 0

    def before(_: int) -> None:
        task.progress(done, len(task.cells))

    begun = [drawer.begin(batch) for batch in task.batches]
    reference = [
        drawer.drawn(network, run, marks=marks, record=run is begun[0], before=before)
        for run in begun
    ]
    Replay(task.sampler, begun[0].latents, reference[0].guided).check(
        reference[0].latents, task.sampler
    )
    judge = Judge(task.model, task.settings.pictures, task.classifier, task.samples)
    judge.remember(reference)
    switched = Switched(task.model, task.sites)
    for (operand, bits), cells in itertools.groupby(task.cells, lambda c: (c.operand, c.bits)):
        layers = task.layers.of(operand, bits)
        everything: tuple[list[Run], Costs] | None = None
        for cell in cells:
            only = {cell.site: layers[cell.site]}
            with switched.rounding(only, _inside(task, cell)) as rounded:
                costs = judge.costs(_from(task, rounded, reference, cell, before))
            if task.settings.both_ways:
                if everything is None:
                    with switched.rounding(layers, lambda site, t: True) as rounded:
                        all_runs = [
                            drawer.drawn(rounded, run, marks=marks, before=before) for run in begun
                        ]
                    everything = all_runs, judge.costs(all_runs)
                with switched.rounding(layers, _but(_inside(task, cell))) as rounded:
                    but = judge.costs(_from(task, rounded, everything[0], cell, before))
                costs |= {f"{m}_saved": everything[1][m] - but[m] for m in but}
            task.layers.slim()
            done += 1
            yield [Row.of(cell, metric, values) for metric, values in costs.items()]
            task.progress(done, len(task.cells))
        task.layers.let_go(operand, bits)


def _from(
    task: Task,
    network: nn.Module,
    runs: Sequence[Run],
    cell: Cell,
    before: Callable[[int], None],
) -> list[Run]:
    """Drawn from the first step of the cell's window on: before it nothing differs from `runs`."""
    first = task.steps_in(cell.window)[0]
    return [task.drawer.drawn(network, run, first, before=before) for run in runs]


def _inside(task: Task, cell: Cell) -> Where:
    """Whether a site at a timestep is the cell."""

    def inside(site: str, timestep: float) -> bool:
        if site != cell.site:
            return False
        return cell.window is None or window_of(task.windows, timestep) == cell.window

    return inside


def _but(inside: Where) -> Where:
    return lambda site, timestep: not inside(site, timestep)


class Judge:
    """Costs of final latents against full precision's of the same samples."""

    def __init__(
        self,
        model: Model,
        pictures: bool,
        classifier: Classifier | None,
        samples: Sequence[Sample],
    ) -> None:
        self.model, self.pictures = model, pictures
        self._latents, self._images = torch.empty(0), torch.empty(0)
        self._log_probs = np.empty(0)
        names = [model.classes.get(s.class_id) for s in samples if s.class_id is not None]
        labels = [] if classifier is None else list(classifier.labels)
        known = len(names) == len(samples) and bool(samples) and set(names) <= set(labels)
        self.classifier = classifier if known and pictures else None
        self._columns = np.array([labels.index(str(name)) for name in names] if known else [], int)

    def expected(self, task: Task) -> tuple[str, ...]:
        """The metrics that rows will have: found on a blank picture of the right shape."""
        found = ["latent_error"]
        if self.pictures:
            shape = self.model.latent_shape(task.sampler)
            with torch.no_grad():
                zeros = torch.zeros(1, *shape, device=self.model.device)
                blank = self.model.adapter.decode(self.model.pipe, zeros)
            found += _of_pictures(blank, blank)
        return (*found, "log_prob_loss") if self.classifier is not None else tuple(found)

    def remember(self, runs: Sequence[Run]) -> None:
        """Take these runs for full precision."""
        self._latents, self._images = self._looked_at(runs)
        self._log_probs = self._log_prob(self._images)

    def costs(self, runs: Sequence[Run]) -> Costs:
        """Every metric of the same samples' runs."""
        latents, images = self._looked_at(runs)
        found = {"latent_error": relative_error(self._latents, latents) ** 2}
        if self.pictures:
            found |= _of_pictures(self._images, images)
        if self.classifier is not None:
            found["log_prob_loss"] = self._log_probs - self._log_prob(images)
        return found

    @torch.no_grad()
    def _looked_at(self, runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
        latents = torch.cat([run.latents.float().cpu() for run in runs])
        if not self.pictures:
            return latents, torch.empty(0)
        decode, pipe = self.model.adapter.decode, self.model.pipe
        return latents, torch.cat([decode(pipe, run.latents) for run in runs])

    @torch.no_grad()
    def _log_prob(self, images: Tensor) -> np.ndarray:
        """Log-probability of the class that was asked for, float64[n]."""
        if self.classifier is None:
            return np.empty(0)
        logits = self.classifier(images.permute(0, 3, 1, 2).contiguous()).double().cpu()
        return logits.log_softmax(1).numpy()[np.arange(len(logits)), self._columns]


def _of_pictures(reference: Tensor, candidate: Tensor) -> Mapping[str, np.ndarray]:
    """Metrics of pictures as costs, float64[n]; what these shapes are too small for is left out."""
    found: Costs = {}
    for key, card in list_metrics().items():
        fits = not card.clips or reference.dim() > PICTURES
        if card.needs != "images" or card.unit == "dB" or not fits:  # dB: infinite for equal ones
            continue
        try:
            values = load_metric(key).measure(reference, candidate)
        except BadInput:
            continue
        found[key if card.better == "lower" else f"{key}_loss"] = (
            values if card.better == "lower" else 1 - values
        )
    return found
