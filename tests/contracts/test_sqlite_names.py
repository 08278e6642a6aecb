"""
One SQLite file that processes open by different names.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database import sqlite_file
from outbox.database.engine import create_engine
from outbox.errors import ConfigurationError
from outbox.transports.sqlite.transport import SqliteTransport
from relay.storage.sqlite import SqliteStore
from tests.support.builders import an_event
from tests.support.commands import CommandLine


def link_the_file(real: Path, folder: Path) -> Path:
    (folder / "outbox.db").symlink_to(real)
    return folder / "outbox.db"


def link_the_folder(real: Path, folder: Path) -> Path:
    (folder / "current").symlink_to(real.parent)
    return folder / "current" / real.name


def link_a_link(real: Path, folder: Path) -> Path:
    (folder / "first").symlink_to(real)
    (folder / "second").symlink_to("first")
    return folder / "second"


def name_it_in_another_way(real: Path, folder: Path) -> Path:
    return folder / ".." / "." / real.name


def an_engine(path: Path) -> AsyncEngine:
    return create_engine(make_url(f"sqlite:///{path}"), pool_size=1, application_name="test")


def tables_in(sqlite_url: str) -> Path:
    return Path(make_url(sqlite_url).database or "").resolve()


@pytest.mark.parametrize(
    "link", [link_the_file, link_the_folder, link_a_link, name_it_in_another_way]
)
async def test_of_two_relays_that_name_one_sqlite_file_differently_one_works(
    sqlite_url, tmp_path, link: Callable[[Path, Path], Path]
):
    real = tables_in(sqlite_url)
    (folder := real.parent / "release2").mkdir()
    engines = [an_engine(real), an_engine(link(real, folder))]
    stores = [SqliteStore(engine) for engine in engines]
    async with engines[1].begin() as connection:
        await connection.execute(outbox.insert(an_event()))

    claims = []
    for store in stores:
        async with store.claim(limit=10, size=1_000_000) as claim:
            claims.append(len(claim.rows))

    assert claims == [1, 0]
    assert [path.name for path in folder.iterdir() if path.suffix == ".lock"] == []
    for engine in engines:
        await engine.dispose()


async def test_an_embedded_broker_keeps_its_side_files_beside_the_real_file(tmp_path):
    (real := tmp_path / "data").mkdir()
    (link := tmp_path / "broker.db").symlink_to(real / "broker.db")

    async with SqliteTransport(link).publisher() as publisher:
        await publisher.ready()

        names = {path.name for path in real.iterdir()}
    assert {"broker.db", "broker.db-lock", "broker.db-wal"} <= names
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("broker")} == {
        "broker.db"
    }


@pytest.mark.parametrize("setting", ["MQ_DATABASE_URL", "MQ_BROKER_URL"])
def test_a_file_with_hard_links_is_a_line_that_names_the_setting(
    setting, sqlite_url, tmp_path, monkeypatch
):
    real = tables_in(sqlite_url)
    if setting == "MQ_BROKER_URL":
        with closing(sqlite3.connect(real := tmp_path / "broker.db")) as database:
            database.execute("PRAGMA user_version = 0")
        real.touch()
    os.link(real, real.with_suffix(".copy"))
    command_line = CommandLine(tmp_path, **{"MQ_DATABASE_URL": sqlite_url, setting: url_of(real)})

    for command in (
        ("relay", "check"),
        ("relay", "run"),
        ("consumer", "run", "tests.support.effects:consumer"),
        ("relay", "migrate") if setting == "MQ_DATABASE_URL" else ("relay", "topology"),
    ):
        ended = command_line(*command)

        assert ended.code == 2, command
        assert f"{setting}: the SQLite file has 2 names" in ended.err
        assert "Traceback" not in ended.err


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def test_links_that_lead_to_each_other_are_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    with pytest.raises(ConfigurationError, match="MQ_BROKER_URL: the path"):
        SqliteTransport(tmp_path / "a")


def test_a_directory_is_refused_as_one(tmp_path):
    with pytest.raises(ConfigurationError, match="MQ_BROKER_URL: the path is a directory"):
        SqliteTransport(tmp_path)


def test_a_file_that_is_itself_a_mount_is_refused_and_a_mounted_folder_is_not(
    tmp_path, monkeypatch
):
    (folder := tmp_path / "two words").mkdir()
    (file := folder / "outbox.db").touch()
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(sqlite_file, "_MOUNTS", mounts)
    escaped = str(folder.resolve()).replace(" ", r"\040")

    mounts.write_text(f"1 2 8:1 /v {escaped} rw - ext4 /dev/sda1 rw\n")
    assert sqlite_file.real_file(file, setting="MQ_DATABASE_URL") == file.resolve()
    mounts.write_text(f"1 2 8:1 /v/outbox.db {escaped}/outbox.db rw - ext4 /dev/sda1 rw\n")
    with pytest.raises(ConfigurationError, match="MQ_DATABASE_URL: the SQLite file is itself"):
        sqlite_file.real_file(file, setting="MQ_DATABASE_URL")
    mounts.unlink()
    assert sqlite_file.real_file(file, setting="MQ_DATABASE_URL") == file.resolve()


async def test_a_second_engine_frees_no_lock_of_the_first(sqlite_url):
    """The kernel frees the locks of a process on a file with any close of that file."""
    file = tables_in(sqlite_url)
    engines = [
        create_engine(
            make_url(sqlite_url), pool_size=1, application_name="test", sqlite_journal="DELETE"
        )
    ]
    async with engines[0].begin():
        engines.append(an_engine(file))
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN IMMEDIATE')"
        other = [sys.executable, "-c", script, str(file)]
        ended = await asyncio.to_thread(subprocess.run, other, capture_output=True, check=False)

    assert b"database is locked" in ended.stderr
    for engine in engines:
        await engine.dispose()
