"""What the tests of faults share: a count of what was tried and what held, told at the end.

`tally(fault, held, why)` counts one case; `tally.done()` ends a test, and fails it where one did not hold.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from bar import FULL
from processes import Nursery
from smallest import Case, Undisturbed

PROPERTY = "fault"
SHOWN = 5  # cases that did not hold, in a test's own words


class Tally:
    """Counts a test's cases by fault; the counts travel with the test's report."""

    def __init__(self, properties: list) -> None:
        self._properties = properties
        self._counts: dict[str, list] = {}
        self.failed: list[str] = []

    def __call__(self, fault: str, held: bool, why: str = "") -> None:
        """Count a case. why: what to say where it did not hold."""
        if fault not in self._counts:
            self._counts[fault] = [fault, 0, 0]
            self._properties.append((PROPERTY, self._counts[fault]))
        self._counts[fault][1] += 1
        self._counts[fault][2] += bool(held)
        if not held:
            self.failed.append(why or fault)

    def done(self) -> None:
        """Fail where a case did not hold."""
        more = len(self.failed) - SHOWN
        shown = "\n".join(self.failed[:SHOWN]) + (f"\n… and {more} more" if more > 0 else "")
        assert not self.failed, f"{len(self.failed)} cases did not hold:\n{shown}"


@pytest.fixture
def tally(request) -> Tally:
    return Tally(request.node.user_properties)


@pytest.fixture
def counted(tally):
    """`with counted(fault):` counts a case, as held where the block comes to its end."""

    @contextmanager
    def block(fault):
        held = False
        try:
            yield
            held = True
        finally:
            tally(fault, held)

    return block


@pytest.fixture
def quick_folder(tmp_path):
    """A folder in memory where there is one: a disk would sync thousands of times."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """A process that has loaded everything and bears `cfm` processes in no time."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as ready:
        yield ready


@pytest.fixture(scope="session")
def undisturbed(nursery, tmp_path_factory):
    """A run of `smallest` that nothing happens to: what the others are held against."""
    return Undisturbed(nursery, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def case(nursery, undisturbed, tmp_path, quick_folder):
    """A run of its own; on a disk where all cases are tried, else in memory where there is some."""
    return Case(nursery, tmp_path if FULL else quick_folder, undisturbed)


def pytest_terminal_summary(terminalreporter) -> None:
    """One line a fault: how many cases were tried, and how many held."""
    tried, held = Counter(), Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for name, value in report.user_properties:
                if name == PROPERTY:
                    fault, count, kept = value
                    tried[fault] += count
                    held[fault] += kept
    if tried:
        terminalreporter.section("faults")
        for fault in sorted(tried):
            terminalreporter.write_line(f"{fault}: {tried[fault]} tried, {held[fault]} held")
