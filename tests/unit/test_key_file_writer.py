"""
Keys in a file that commands change while processes read it.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from outbox.encryption import key_file_writer
from outbox.encryption.key_file import KeyFile
from outbox.encryption.key_ring import new_key
from outbox.encryption.managed_keys import ManagedFile
from outbox.errors import ConfigurationError
from tests.support.encrypted_rows import a_ring


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    key_file_writer.create(path, a_ring(3), source="FILE")
    return path


def ids(file: Path) -> set[str]:
    return {key["id"] for key in json.loads(file.read_text())["keys"]}


def test_only_the_owner_may_read_a_new_file_and_none_is_overwritten(file):
    assert file.stat().st_mode & 0o777 == 0o600

    with pytest.raises(ConfigurationError, match="the file exists"):
        key_file_writer.create(file, a_ring(1), source="FILE")

    assert ids(file) == {"key-3"}
    with pytest.raises(ConfigurationError, match="FILE: its directory does not exist: make it"):
        key_file_writer.create(file.parent / "of" / "keys.json", a_ring(1), source="FILE")


def test_a_change_keeps_mode_owner_and_notes_and_follows_a_link(file, tmp_path):
    document = json.loads(file.read_text())
    document["keys"][0]["note"] = document["note"] = "from the vault"
    file.write_text(json.dumps(document))
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 1234, 5678)
    before = file.stat()
    link = tmp_path / "link.json"
    link.symlink_to(file)
    reader = KeyFile(file, source="FILE")

    ManagedFile(link).add(new_key(datetime.now(UTC)))

    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    changed = json.loads(file.read_text())
    assert changed["note"] == changed["keys"][0]["note"] == "from the vault"
    assert changed["digest_key"] == document["digest_key"]
    assert link.is_symlink()
    reader.refresh()
    assert len(reader.ring.keys) == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["keys.json", "link.json"]


def test_of_commands_at_the_same_time_each_adds_its_key(file):
    added = [new_key(datetime.now(UTC)) for _ in range(8)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: ManagedFile(file).add(key), added))

    assert ids(file) == {"key-3", *(key.id for key in added)}


def test_a_change_that_fails_leaves_the_file_as_it_is(file, tmp_path, monkeypatch):
    before = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        ManagedFile(file).add(new_key(datetime.now(UTC)))
    with pytest.raises(ConfigurationError, match="No space left on device"):
        key_file_writer.create(tmp_path / "other.json", a_ring(1), source="FILE")

    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
