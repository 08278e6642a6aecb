"""
The programs of the tutorial work as the page says.
"""

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text()
SAVED = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
REPAIR = re.findall(r"by this one:\n\n```python\n(.*?)```", PAGE, re.DOTALL)


class Reader:
    """A reader who follows the tutorial in *directory*, with shorter pauses between retries."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in SAVED.items():
            (directory / name).write_text(text)

    def child(self, *words: str) -> ChildProcess:
        module = words[0] in {"relay", "consumer"}
        return ChildProcess(
            [sys.executable, *(["-m"] if module else []), *words],
            log=self.directory / f"{'-'.join(words[:2]).replace('.', '-')}.log",
            env={
                "MQ_LOG_FORMAT": "json",
                "MQ_METRICS_PORT": "0",
                "MQ_RETRY_DELAYS": "0.1",
                "MQ_MAX_RETRIES": "1",
            },
            cwd=self.directory,
        )

    async def run(self, *words: str, status: int = 0) -> str:
        """Run one command to its end, and return its output."""
        async with self.child(*words) as command:
            assert await command.wait(within=30) == status
            return command.output

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.directory / "outbox.db")) as connection:
            return connection.execute(statement).fetchall()

    def reports(self, count: int) -> list[tuple[object, ...]]:
        """Return the reports once *count* of them exist, and none before."""
        found = self.query("SELECT result_id, verdict FROM reports ORDER BY result_id")
        return found if len(found) >= count else []


@pytest.fixture
def reader(tmp_path, clean_environment):
    return Reader(tmp_path)


async def test_a_reader_of_the_tutorial_gets_one_report_for_each_committed_result(reader):
    await reader.run("relay", "migrate")
    await reader.run("tables.py")
    await reader.run("producer.py", "95", "crash", status=1)
    assert reader.query("SELECT count(*) FROM outbox") == [(0,)]
    await reader.run("producer.py", "95")
    await reader.run("producer.py", "-1")
    assert reader.query("SELECT count(*) FROM outbox") == [(2,)]

    async with reader.child("relay", "run"):
        async with reader.child("consumer", "run", "handlers:lab") as consumer:
            await consumer.wait_for_line("message_dead_lettered", within=30)
            assert await eventually(lambda: reader.reports(1), within=20) == [(1, "normal")]
            assert await consumer.terminate() == 0
        repair(reader.directory / "handlers.py")
        async with reader.child("consumer", "run", "handlers:lab"):
            replay = ["consumer", "dead", "replay", "handlers:lab", "1", "--because", "repaired"]
            assert "replayed 1 of 1" in await reader.run(*replay)
            assert await eventually(lambda: reader.reports(2), within=20) == [
                (1, "normal"),
                (2, "invalid"),
            ]


def repair(handlers: Path) -> None:
    """Replace the line with `raise`, as the tutorial says."""
    (line,) = REPAIR
    text, count = re.subn(r" +raise .*\n", line, handlers.read_text())
    assert count == 1
    handlers.write_text(text)
