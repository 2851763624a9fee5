"""Pytest plugin: how long each suite (the first folder or file below tests/) took."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

import pytest

SECONDS = pytest.StashKey[dict[str, float]]()
COUNTS = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SECONDS] = defaultdict(float)
    config.stash[COUNTS] = defaultdict(int)


class Collector:
    """Adds up the phases of every test."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = PurePosixPath(report.nodeid.split("::")[0]).parts
        suite = "/".join(parts[:2])
        self.config.stash[SECONDS][suite] += report.duration
        self.config.stash[COUNTS][suite] += report.when == "call"


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(Collector(session.config), "suite-times-collector")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds = terminalreporter.config.stash[SECONDS]
    counts = terminalreporter.config.stash[COUNTS]
    if not seconds:
        return
    terminalreporter.section("seconds per suite", sep="-")
    for suite, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{spent:8.1f} s  {counts[suite]:5d} tests  {suite}")
    terminalreporter.write_line(
        f"{sum(seconds.values()):8.1f} s  {sum(counts.values()):5d} tests  in all"
    )
