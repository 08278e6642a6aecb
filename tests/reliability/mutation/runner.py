"""
Runs a mutant: copies the project, changes one place, and runs the check that has to catch it.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.mutation.mutants import Check, Mutant, Schedules, Suite

PROJECT = Path(__file__).resolve().parents[3]
LONGEST_SECONDS = 3_600
_LINES = 4


class DriftedError(Exception):
    """The text that a mutant replaces does not occur exactly once in the product."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The result of a check.

    Args:
        caught_by: The broken rules and the seed, or the failed tests; None if nothing was found.
        seconds: How long the check took.

    """

    caught_by: str | None
    seconds: float


def mutated(mutant: Mutant, text: str) -> str:
    """
    The *text* of the mutant's file with the fault in it.

    Raises DriftedError if the place is not unique.
    """
    if text.count(mutant.old) != 1:
        raise DriftedError(f"{mutant.name}: {mutant.file} has no single {mutant.old!r}")
    return text.replace(mutant.old, mutant.new)


def plant(mutant: Mutant | None, directory: Path) -> None:
    """Copy the project to *directory*, with *mutant* applied, if any."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        if not (PROJECT / name).is_file():
            continue
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, directory / name)
    if mutant is not None:
        path = directory / mutant.file
        path.write_text(mutated(mutant, path.read_text()))


def attempt(check: Check, directory: Path) -> Verdict:
    """
    Carry out *check* on the project in *directory*.

    Raises subprocess.TimeoutExpired, and RuntimeError if it has failed for another reason.
    """
    began = time.monotonic()
    command, failed = _command(check)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        # Before the place that the project is installed from.
        env={**os.environ, "PYTHONPATH": str(directory)},
        check=False,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    seconds = time.monotonic() - began
    match done.returncode:
        case 0:
            return Verdict(None, seconds)
        case 1 if found := found_by(check, done.stdout):
            return Verdict(found, seconds)
        case code:
            last = (done.stdout + done.stderr).splitlines()[-_LINES:]
            raise RuntimeError(f"{failed}: exit status {code}\n" + "\n".join(last))


def _command(check: Check) -> tuple[Sequence[str], str]:
    if isinstance(check, Suite):
        options = ["-x", "-q", "--timeout", "120", "-p", "no:cacheprovider"]
        return ["pytest", *options, *check.nodes], "the tests did not run"
    return [
        "tests.reliability.simulation",
        "--seeds",
        f"1-{check.seeds}",
    ], "the simulation did not run"


def found_by(check: Check, output: str) -> str | None:
    """
    The broken rules or failed tests in *output*, in a few words.

    An ERROR is a test that could not run, and proves nothing.
    """
    if isinstance(check, Schedules):
        seeds = re.findall(r"^seed (\d+):", output, re.MULTILINE)
        rules = dict.fromkeys(re.findall(r"^  (\w+): ", output, re.MULTILINE))
        return f"{', '.join(rules)} (seed {seeds[-1]})" if rules else None
    failed = re.findall(r"^FAILED \S*::(\w+)", output, re.MULTILINE)
    return f"`{failed[0]}`" if failed else None
