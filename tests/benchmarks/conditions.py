"""
The conditions of a measurement: versions, machine, and extent of the run.
"""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import Conditions
from tests.benchmarks.throughput import ROWS
from tests.support.processes import REPOSITORY

_LIBRARIES = ("aio-pika", "aiormq", "asyncpg", "SQLAlchemy", "uvloop")
_SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size", "wal_compression")


async def conditions(environment: Environment, plan: Plan, groups: Sequence[str]) -> Conditions:
    """Versions, machine, and extent of the run."""
    load = " ".join(f"{average:.2f}" for average in os.getloadavg())
    show = environment.database.fetchval
    settings = {name: await show(f"SHOW {name}") for name in _SETTINGS}
    return {
        "Postgres": str(await show("SHOW server_version")),
        "Postgres settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
        "RabbitMQ": environment.broker_version,
        "Python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "cores": str(len(os.sched_getaffinity(0))),
        "load at the start (1, 5, 15 min)": load,
        **dict(environment.installed.versions()),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "extent": f"{plan.rounds} rounds, scale {plan.scale:g}, {', '.join(groups)}",
        "messages": "1 KB bodies, persistent, mandatory, confirmed, one quorum queue, one node",
        "rows for throughput": ", ".join(
            f"{name} {plan.rows(rows):,}" for name, rows in ROWS.items()
        ),
    }


def commit() -> str:
    """The current commit, and whether the working tree has changes."""

    def git(*words: str) -> str:
        asked = subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return asked.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        " with changes" if changed else ""
    )
