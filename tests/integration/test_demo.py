import hashlib
import json
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from outbox_demo.audit import audit
from outbox_demo.history import History
from outbox_demo.sources import files
from outbox_demo.tables import Record
from tests.support.commands import CommandLine
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess, PreparedProcess
from tests.support.reaper import process_exists

WITHIN = 90.0
ON_FILES = {"MQ_DATABASE_URL": "", "MQ_BROKER_URL": "", "COLUMNS": "100"}
UPLOAD = {
    "bucket": "uploads",
    "key": "2026/01/01/4711.json",
    "user_id": "user-4711",
    "upload_timestamp_utc": "2026-01-01T08:00:00Z",
    "record_type": "StepsRecord",
    "content_hash": hashlib.sha256(b"[]").hexdigest(),
    "file_size_bytes": 2,
}
# The kernel ends the children of a parent that is killed on Linux only.
ENDINGS = [signal.SIGTERM, *([signal.SIGKILL] if sys.platform == "linux" else [])]


def demo(work: Path, *options: str | Path) -> ChildProcess:
    """The demo on SQLite files in *work*."""
    return PreparedProcess(
        [sys.executable, "-m", "outbox_demo", "--directory", work, *options],
        log=work.with_suffix(".log"),
        env=ON_FILES,
    )


def figures(output: str) -> dict[str, str]:
    """The rows of the final table."""
    return dict(re.findall(r"^│ (.+?) +│ +(.+?) │$", output, flags=re.MULTILINE))


def effects(work: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(work / "outbox.db")) as connection:
        connection.row_factory = sqlite3.Row
        [name] = connection.execute(
            "SELECT name FROM sqlite_master WHERE name LIKE 'demo_effects_%'"
        ).fetchone()
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]


def children_of(pid: int) -> set[int]:
    """The processes below *pid*, all generations."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == pid:
            child = int(status.parent.name)
            found |= {child} | children_of(child)
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


async def test_every_committed_event_has_one_effect_though_processes_are_killed(work: Path):
    child = ChildProcess(
        [sys.executable, "-m", "relay", "demo", "--directory", work, "--count", "500"],
        log=work.with_suffix(".log"),
        env=ON_FILES,
    )
    async with child:
        code = await child.wait(within=WITHIN)

        assert code == 0, child.tail
        table = figures(child.output)
        assert table["committed"] == table["published"] == table["applied"] == "500"
        assert int(table["rolled back on purpose"]) > 0
        assert table["processes killed and started again"] == "4"
        assert table["lost"] == "0"
        assert table["applied twice"] == "0"
        assert table["applied although rolled back"] == "0"
        assert table["exit codes"] == "0 from all 4"
        assert len(effects(work)) == 500


async def test_the_events_of_a_file_are_published_and_applied(work: Path, tmp_path: Path):
    file = tmp_path / "events.ndjson"
    plain = {"type": "patient.registered", "payload": {"name": "Grüezi", "visits": [1, None]}}
    again = UPLOAD | {"key": "2026/01/01/4712.json"}
    file.write_text("\n".join(map(json.dumps, (UPLOAD, plain, again))))

    async with demo(work, "--events", file) as child:
        code = await child.wait(within=WITHIN)

        assert code == 0, child.tail
        table = figures(child.output)
        assert table["committed"] == "3"
        assert table["repeat the idempotency key of another event"] == "1"
        assert table["applied"] == "2"
        assert {row["record_type"] for row in effects(work)} == {
            "StepsRecord",
            "patient.registered",
        }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (json.dumps(UPLOAD | {"user_id": 4711}), "line 3: user_id: "),
        (json.dumps({"type": "Zöe Müller", "payload": 1}), "line 3: type: "),
        (json.dumps({"type": "patient.moved"}), "line 3: payload: "),
        ('{"user_id": "user-4711"', "line 3: event: is not JSON"),
    ],
)
def test_a_bad_line_stops_the_demo_before_it_commits_an_event(
    work: Path, tmp_path: Path, line: str, problem: str
):
    file = tmp_path / "events.ndjson"
    file.write_text(f"{json.dumps(UPLOAD)}\n\n{line}\n")

    run = CommandLine(tmp_path)
    ended = run("outbox_demo", "--directory", str(work), "--events", str(file))

    assert ended.code == 2
    assert f"error: {problem}" in ended.err
    assert "4711" not in run.printed
    assert "Müller" not in run.printed
    assert not (work / "outbox.db").exists()


def test_each_file_of_a_directory_becomes_an_upload_with_its_size_and_hash(tmp_path: Path):
    contents = {
        "HeartRateRecord/morning.json": b'{"bpm": 61}',
        "report.pdf": os.urandom(3_000_000),
        "empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    uploads = [json.loads(event.body) for event in files(tmp_path)]

    kinds = ("HeartRateRecord", "pdf", "File")
    assert {
        (row["record_type"], row["file_size_bytes"], row["content_hash"]) for row in uploads
    } == {
        (kind, len(content), hashlib.sha256(content).hexdigest())
        for kind, content in zip(kinds, contents.values(), strict=True)
    }


def test_a_directory_that_is_not_empty_is_refused_and_not_changed(tmp_path: Path):
    (tmp_path / "events.ndjson").write_text(json.dumps(UPLOAD))

    ended = CommandLine(tmp_path)("outbox_demo", "--directory", str(tmp_path))

    assert ended.code == 2
    assert "must be empty" in ended.err
    assert (tmp_path / "events.ndjson").read_text() == json.dumps(UPLOAD)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_no_child_outlives_the_demo(work: Path, ending: signal.Signals):
    async with demo(work) as child:
        await child.wait_for_line("starting", within=WITHIN)
        await eventually(lambda: len(children_of(child.pid)) == 4, within=WITHIN)
        pids = children_of(child.pid)

        os.kill(child.pid, ending)
        await child.wait(within=WITHIN)

        assert child.exit_code == (-ending if ending is signal.SIGKILL else 128 + ending)
        await eventually(lambda: not any(map(process_exists, pids)), within=WITHIN)


def row(number: int, *, key: str = "", size: int = 1) -> Record:
    return Record(UUID(int=number), key or f"key-{number}", "hash", size)


def test_the_audit_passes_if_every_committed_event_has_one_effect():
    uploads = [row(1), row(2), row(3, key="key-2")]
    past = History({UUID(int=1), UUID(int=2), UUID(int=3)}, {UUID(int=4)})

    result = audit(uploads, [row(1), row(2)], past)

    assert result.passed
    assert (result.committed, result.rolled_back, result.applied, result.repeated) == (3, 1, 2, 1)


@pytest.mark.parametrize(
    ("applied", "committed", "fault"),
    [
        ([row(1)], {1, 2}, "lost"),
        ([row(1), row(2), row(2)], {1, 2}, "applied_twice"),
        ([row(1), row(2), row(3)], {1, 2}, "uncommitted"),
        ([row(1), row(2, size=7)], {1, 2}, "changed"),
        ([row(1), row(2)], {1}, "inconsistent"),
        ([row(1), row(2)], {1, 2, 3}, "inconsistent"),
    ],
)
def test_the_audit_finds_each_fault(applied: list[Record], committed: set[int], fault: str):
    result = audit([row(1), row(2)], applied, History({UUID(int=n) for n in committed}))

    assert not result.passed
    faults = ("lost", "applied_twice", "uncommitted", "changed", "inconsistent")
    assert {name: getattr(result, name) for name in faults} == dict.fromkeys(faults, 0) | {
        fault: 1
    }
