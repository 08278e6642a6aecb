"""
The plugin of pytest, and the page that explains the helpers: each in a session of its own.
"""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "test-your-application.md"

TESTS_ON_SERVERS = """
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from consumer import Consumer
from outbox import Event

etl = Consumer("etl", bindings=["#"])
DATABASES = set()

@etl.on("it.happened")
async def keep(message, session): ...

async def test_the_whole_way(outbox_running, outbox_database_url):
    DATABASES.add(make_url(outbox_database_url).database)
    async with outbox_running(etl) as app:
        assert app.engine.dialect.name == "postgresql"
        assert app.broker_url.startswith("amqp:")
        await app.record(Event("it.happened", 1))
        assert len((await app.drain()).handled) == 1

async def test_another_database(outbox_running, outbox_database_url):
    assert make_url(outbox_database_url).database not in DATABASES
    async with outbox_running(etl) as app:
        assert (await app.drain()).published == ()
"""

OWN_TEST = """
import sys

def test_nothing():
    assert not {"sqlalchemy", "outbox.event", "consumer", "relay"} & sys.modules.keys()
"""


async def run(folder: Path, code: str, *arguments: str, plugins: tuple[str, ...] = ()) -> str:
    """The output of pytest for a file of this *code*; fails with it unless its tests pass."""
    (folder / "test_it.py").write_text(code)
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\n"
        if plugins
        else "[pytest]\nfilterwarnings = error\n"
    )
    loaded = [f"-p{name}" for name in (*plugins, "outbox_testing.plugin")]
    # The entry point of an installed version would load the plugin a second time.
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    completed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider", *loaded, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


async def test_the_code_of_the_page_runs(tmp_path: Path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    expected = code.count("def test_")

    assert f"{expected} passed" in await run(tmp_path, code, plugins=("pytest_asyncio.plugin",))


async def test_the_fixtures_use_the_configured_servers(
    tmp_path: Path, empty_postgres_url: str, rabbitmq_url: str
):
    options = [
        f"--outbox-database-url={empty_postgres_url}",
        f"--outbox-broker-url={rabbitmq_url}",
    ]

    plugins = ("pytest_asyncio.plugin",)
    assert "2 passed" in await run(tmp_path, TESTS_ON_SERVERS, *options, plugins=plugins)


async def test_the_plugin_disturbs_no_session_that_does_not_use_it(tmp_path: Path):
    assert "1 passed" in await run(tmp_path, OWN_TEST)
    assert "outbox.db" not in os.listdir(tmp_path)  # noqa: PTH208 - in a task


@pytest.mark.parametrize("module", ["outbox.testing", "outbox_testing.plugin"])
async def test_a_module_is_cheap_to_import(module: str):
    """A producer, and every session of pytest, import it: without the packages of processes."""
    code = (
        f"import sys, {module};"
        "print({'greenlet', 'structlog', 'asyncpg', 'pydantic_settings'} & sys.modules.keys())"
    )
    completed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.strip() == "set()"
