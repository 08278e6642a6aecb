"""
The examples of the README run, and its code is taken from them.
"""

import ast
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

REPOSITORY = Path(__file__).resolve().parents[2]


async def test_the_examples_work_together_without_any_server(tmp_path):
    settings = {
        "MQ_DATABASE_URL": f"sqlite:///{tmp_path / 'outbox.db'}",
        "MQ_BROKER_URL": f"sqlite:///{tmp_path / 'broker.db'}",
        "MQ_METRICS_PORT": "0",
        "MQ_LOG_FORMAT": "json",
    }

    def child(*module: str) -> ChildProcess:
        log = tmp_path / f"{'-'.join(module).replace(':', '-')}.log"
        return ChildProcess([sys.executable, "-m", *module], log=log, env=settings)

    for module in (["relay", "migrate"], ["examples.etl"]):
        async with child(*module) as once:
            assert await once.wait(within=30) == 0
    async with child("relay", "run") as relay, child("consumer", "run", "examples.etl:etl") as etl:
        await etl.wait_for_line("consumer_started", within=30)
        await relay.wait_for_line("relay_started", within=30)
        async with child("examples.producer") as producer:
            assert await producer.wait(within=30) == 0

        uploads = await eventually(lambda: rows(tmp_path / "outbox.db"), within=20)
        assert await relay.terminate() == 0
        assert await etl.terminate() == 0

    assert [(record_type, count) for record_type, count in uploads] == [("BloodGlucoseRecord", 1)]


def rows(database: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            "SELECT record_type, count(*) FROM uploads GROUP BY record_type"
        ).fetchall()


def test_the_python_of_the_readme_is_python():
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)

    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
