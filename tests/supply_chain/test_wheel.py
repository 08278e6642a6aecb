"""
The wheel, built as in the image: with the installed backend, and without a registry.

It runs with the distributions that pip installs for some extras, and no others.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

from outbox_relay.extras import OF_COMMANDS, OF_SERVERS
from tests.supply_chain.distributions import PYPROJECT, installed, link
from tests.supply_chain.lock import ROOT, SBOM
from tests.support.commands import CommandLine

RECORDING = """
import sqlalchemy as sa
from sqlalchemy.orm import Session
import outbox

engine = sa.create_engine("sqlite:///outbox.db")
outbox.metadata.create_all(engine)
with Session(engine) as session, session.begin():
    outbox.add(session, outbox.Event("lab.result.stored", {"id": 1}))
with engine.begin() as connection:
    connection.execute(outbox.insert(outbox.Event("lab.result.stored", {"id": 2})))
    print(*connection.scalars(sa.text("SELECT type FROM outbox")))
"""
RECORDING_BY_ASYNCIO = """
import asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
import outbox

async def record():
    engine = create_async_engine("sqlite+aiosqlite:///outbox.db")
    async with engine.begin() as connection:
        await connection.run_sync(outbox.metadata.create_all)
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, outbox.Event("lab.result.stored", {"id": 1}))
        print(*await session.scalars(sa.text("SELECT type FROM outbox")))
    await engine.dispose()

asyncio.run(record())
"""
A_CONSUMER = """
from consumer import Consumer
etl = Consumer("etl", bindings=["#"])
@etl.on("lab.result.stored")
async def load(message, session): ...
"""
POSTGRES = {"MQ_DATABASE_URL": "postgresql://app@127.0.0.1:1/none"}
RABBITMQ = {"MQ_BROKER_URL": "amqp://127.0.0.1:1"}


class Environment:
    """Programs that find the standard library, the wheel, and the distributions of *extras*."""

    def __init__(self, folder: Path, wheel: Path, *extras: str) -> None:
        self.site, self.work = folder / "site", folder / "work"
        self.site.mkdir()
        self.work.mkdir()
        link(self.site, installed(*extras))
        with ZipFile(wheel) as file:
            file.extractall(self.site)

    def __call__(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """Run Python with *arguments*; returns its code, its output, and its errors."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MQ_")}
        done = subprocess.run(
            [sys.executable, "-S", "-P", *arguments],
            env={**kept, "PYTHONPATH": str(self.site), **settings},
            cwd=self.work,
            capture_output=True,
            text=True,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
        return done.returncode, done.stdout, "\n".join(errors)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [*(sys.executable, "-m", "hatchling", "build", "-t", "wheel"), "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_contains_the_bill_of_materials_where_scanners_look(wheel):
    with ZipFile(wheel) as file:
        [name] = [each for each in file.namelist() if ".dist-info/sboms/" in each]
        bill = json.loads(file.read(name))

    assert name.endswith("/sbom.cdx.json")
    assert bill == json.loads(SBOM.read_text())


def test_the_files_of_the_wheel_print_the_migrations_of_a_schema(wheel, tmp_path):
    run = Environment(tmp_path, wheel, "relay", "postgres")
    settings = {"MQ_DATABASE_URL": "postgresql://db.invalid/app?sslmode=verify-full"}
    command = ("migrate", "--sql", "--schema", "mq")

    code, printed, errors = run("-m", "relay", *command, **settings)

    assert (code, errors) == (0, "")
    assert printed == CommandLine(tmp_path)("relay", *command, **settings).out
    assert 'SET search_path TO "mq";' in printed


def test_a_producer_installs_eight_distributions():
    assert {PYPROJECT["project"]["name"], *installed()} == {
        "outbox-relay",
        "sqlalchemy",
        "typing-extensions",
        "pydantic",
        "pydantic-core",
        "annotated-types",
        "typing-inspection",
        "uuid-utils",
    }


def test_the_packages_of_the_commands_are_known_by_their_extra():
    def modules(*extras: str) -> set[str]:
        distributions = [each for name, each in installed(*extras).items() if name not in core]
        return {
            file.parts[0].removesuffix(".py")
            for each in distributions
            for file in each.files or ()
            if file.name == "__init__.py" or len(file.parts) == 1
        }

    core = installed()
    assert modules("relay") >= OF_COMMANDS
    assert modules("consumer") >= OF_COMMANDS
    for module, extra in OF_SERVERS.items():
        assert module in modules(extra)
        assert module not in modules("relay", "consumer")


def test_a_producer_imports_neither_pydantic_nor_the_orm_before_it_uses_them():
    program = "import sys, outbox; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )

    imported = set(done.stdout.split())
    assert "sqlalchemy.orm" not in imported
    assert imported & packages_distributions().keys() <= {
        "_distutils_hack",  # setuptools, at the start of Python
        "outbox",
        "sqlalchemy",
        "typing_extensions",
        "uuid_utils",
    }


def test_a_producer_needs_no_extra(wheel, tmp_path):
    run = Environment(tmp_path, wheel)

    assert run("-c", RECORDING) == (0, "lab.result.stored lab.result.stored\n", "")

    for command, extra in (
        (("-m", "relay", "run"), "relay"),
        (("-m", "relay", "check"), "relay"),
        (("-m", "consumer", "run", "app:etl"), "consumer"),
        (("-m", "consumer", "check", "app:etl"), "consumer"),
    ):
        problem = f"error: {extra} needs more packages: pip install 'outbox-relay[{extra}]'"
        assert run(*command) == (2, "", problem)
    problem = "error: relay demo needs more packages: pip install 'outbox-relay[all]'"
    assert run("-m", "outbox_demo") == (2, "", problem)

    code, _, traceback = run("-c", "import consumer")
    assert code == 1
    assert traceback.splitlines()[-1] == (
        "outbox_relay.MissingPackage: consumer needs more packages: "
        "pip install 'outbox-relay[consumer]'"
    )


def test_a_producer_with_asyncio_needs_only_a_driver(wheel, tmp_path):
    run = Environment(tmp_path, wheel, "sqlite")

    assert run("-c", RECORDING_BY_ASYNCIO) == (0, "lab.result.stored\n", "")
    assert installed("sqlite").keys() - installed().keys() == {"aiosqlite", "greenlet"}


def test_a_process_names_the_extra_of_its_server(wheel, tmp_path):
    run = Environment(tmp_path, wheel, "relay", "consumer")
    (run.work / "app.py").write_text(A_CONSUMER)

    for command in (("relay", "run"), ("consumer", "check", "app:etl")):
        code, _, errors = run("-m", *command, MQ_LOG_FORMAT="json", MQ_METRICS_PORT="0")
        assert code == 2
        assert (
            "MQ_DATABASE_URL: SQLite needs more packages: pip install 'outbox-relay[sqlite]'"
            in (errors)
        )
    code, _, errors = run("-m", "relay", "check", **POSTGRES, **RABBITMQ)
    needs = "needs more packages: pip install"
    assert (code, errors.splitlines()) == (
        2,
        [
            f"error: MQ_DATABASE_URL: Postgres {needs} 'outbox-relay[postgres]'",
            f"error: MQ_BROKER_URL: RabbitMQ {needs} 'outbox-relay[rabbitmq]'",
        ],
    )


def test_a_single_node_needs_neither_the_driver_of_postgres_nor_the_client_of_rabbitmq(
    wheel, tmp_path
):
    run = Environment(tmp_path, wheel, "relay", "consumer", "sqlite")
    (run.work / "app.py").write_text(A_CONSUMER)

    for command in (
        ("relay", "migrate"),
        ("consumer", "topology", "app:etl"),
        ("consumer", "check", "app:etl"),
        ("relay", "check"),
    ):
        code, _, errors = run("-m", *command)
        assert (code, errors) == (0, ""), command


def test_servers_need_no_package_of_sqlite(wheel, tmp_path):
    run = Environment(tmp_path, wheel, "relay", "consumer", "postgres", "rabbitmq")
    (run.work / "app.py").write_text(A_CONSUMER)

    for command in (("relay", "check"), ("consumer", "check", "app:etl")):
        code, _, errors = run("-m", *command, **POSTGRES, **RABBITMQ)
        first, second = errors.splitlines()
        assert code == 3
        assert first.startswith("error: MQ_DATABASE_URL: cannot connect to 127.0.0.1:1: ")
        assert second.startswith("error: MQ_BROKER_URL: cannot connect to 127.0.0.1:1: ")
