"""A job looked at until it is over, as the status strip of a tab does."""

from __future__ import annotations

import time
from collections.abc import Iterator

from dqviz.ui.bench import Bench
from dqviz.ui.form import Form
from dqviz.ui.progress import Follow, Screen, failed
from quant.errors import DQVizError

EVERY = 0.1  # seconds


def screens_of(follow: Follow) -> Iterator[Screen]:
    """Screens until the job is over; the last one is not running."""
    while not follow.over:
        screen = follow.look()
        if screen is not None:
            yield screen
        if not follow.over:
            time.sleep(EVERY)


def run_form(bench: Bench, form: Form, study: str | None = None) -> Iterator[Screen]:
    """Screens of one comparison, from its submission to its end."""
    try:
        job = bench.submit(form, study)
    except DQVizError as error:
        yield failed(str(error))
        return
    yield from screens_of(bench.follow(job.id, study))
