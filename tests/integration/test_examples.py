"""
The examples of the README run, and its code is taken from them.
"""

import ast
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from consumer.bound import bind
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


RECORDING = """
import asyncio

async def main() -> None:
    await store("a")
    store_now("b")
    await store_all(["c", "d"])
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(event, scan, upload))
    await engine.dispose()

asyncio.run(main())
"""


async def test_the_page_on_recording_events_records_them(tmp_path):
    # A block that is not for SQLite, which has no schemas.
    blocks = python_blocks("docs/how-to/record-events.md")
    page = "\n".join(block for block in blocks if "use_schema(" not in block)
    (tmp_path / "page.py").write_text(page + RECORDING)

    for words in (["-m", "relay", "migrate"], ["page.py"]):
        command = [sys.executable, *words]
        async with ChildProcess(command, log=tmp_path / "log", env={}, cwd=tmp_path) as child:
            assert await child.wait(within=30) == 0, child.output

    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        types = connection.execute("SELECT type, count(*) FROM outbox GROUP BY type").fetchall()
    assert dict(types) == {
        "health.file.stored": 4,
        "patient.moved": 1,
        "scan.taken": 1,
        "health.data.uploaded": 1,
    }


def test_the_handlers_of_the_page_can_be_pasted(monkeypatch):
    """Handlers below the first example use its imports."""
    http = ModuleType("httpx")
    http.AsyncClient = type("AsyncClient", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "httpx", http)
    names: dict[str, Any] = {}
    for block in python_blocks("docs/how-to/write-handlers.md"):
        if re.search(r"^@\w+\.on|Consumer\(", block, re.MULTILINE):
            exec(block, names)  # noqa: S102 - our own page

    assert sorted(names["records"].handlers["report.ready"].resources) == ["http"]
    assert [len(bind(names["etl"]).on_failure), len(bind(names["north"]).on_dead_letter)] == [1, 0]
    assert sorted(names["etl"].handlers) == [
        "glucose.reading.taken",
        "health.data.uploaded",
        "measurement.taken",
        "patient.moved",
        "report.ready",
    ]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)


BEFORE_THE_README = """
from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from consumer import Consumer, Message
from consumer.testing import running
from outbox.testing import recorded

class Base(DeclarativeBase): ...

class StoredFile(Base):
    __tablename__ = "stored_files"
    key: Mapped[str] = mapped_column(primary_key=True)

class Upload(Base):
    __tablename__ = "uploads"
    message_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str]

preparing = create_async_engine(url)
async with preparing.begin() as connection:
    await connection.run_sync(Base.metadata.create_all)
await preparing.dispose()
key = "2026/03/7f9c.json"
"""
AFTER_IT = """
async with AsyncSession(engine) as session:
    [event] = await recorded(session)
await engine.dispose()
"""


async def test_the_python_of_the_readme_records_and_handles_an_event(sqlite_url):
    *blocks, of_alembic = python_blocks("README.md")
    assert of_alembic.startswith("context.configure")
    names: dict[str, Any] = {"url": sqlite_url}
    for block in (BEFORE_THE_README, *blocks, AFTER_IT):
        code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if (waiting := eval(code, names)) is not None:  # noqa: S307 - our own page
            await waiting

    assert (names["event"].type, names["event"].payload) == (
        "health.file.stored",
        {"key": "2026/03/7f9c.json"},
    )
