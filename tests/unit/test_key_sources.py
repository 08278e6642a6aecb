"""
Where keys come from: documents, files that are replaced, variables, modules; and `use_encryption`.
"""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import outbox
from outbox import producer_encryption
from outbox.encryption import key_file, key_ring, sources
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_file import KeyFile
from outbox.encryption.key_ring import KeyRing, new_key
from outbox.encryption.keys import UnknownKey
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.wire.encrypted import ENCODING
from tests.support.builders import an_event
from tests.support.encryption import SourceOfKeys, SubjectsInMemory, a_ring

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
KEY = base64.b64encode(bytes(range(32))).decode()
A_KEY = {"id": "2026-12", "key": KEY, "active_from": "2026-12-01T00:00:00Z"}

source_of_this_module = SourceOfKeys()
nothing = object()


def a_document(**changes: Any) -> dict[str, Any]:
    return {"digest_key": KEY, "keys": [A_KEY], **changes}


def write(path: Path, ring: KeyRing) -> None:
    """Replace the document at *path*, as a mounted secret is replaced."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(ring.to_document()))
    new.replace(path)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("canary", "is no JSON document"),
        (b"\xff\xfe\xfd", "is no JSON document"),
        ("[" * 100_000, "is no JSON document"),
        ([], "must be an object with digest_key and keys"),
        ({"digest_key": KEY}, "must be an object with digest_key and keys"),
        (a_document(keys={}), "must be an object with digest_key and keys"),
        (a_document(keys=[]), "keys: must have at least one key"),
        (a_document(digest_key="canary"), "digest_key: must be 32 bytes in base64"),
        (a_document(digest_key=None), "digest_key: must be 32 bytes in base64"),
        (a_document(digest_key=KEY + "é"), "digest_key: must be 32 bytes in base64"),
        (a_document(digest_key=KEY[:20]), "digest_key: must be 32 bytes in base64"),
        (a_document(keys=["canary"]), r"keys\[0\]: must be an object"),
        (a_document(keys=[{**A_KEY, "id": "canary 1"}]), r"keys\[0\]\.id: must be 1 to 255"),
        (a_document(keys=[A_KEY, {**A_KEY, "id": 7}]), r"keys\[1\]\.id: must be 1 to 255"),
        (a_document(keys=[{**A_KEY, "key": "canary"}]), r"keys\[0\]\.key: must be 32 bytes"),
        (a_document(keys=[{**A_KEY, "active_from": "canary"}]), r"keys\[0\]\.active_from: must"),
        (
            a_document(keys=[{**A_KEY, "active_from": "2026-12-01"}]),
            r"keys\[0\]\.active_from: must",
        ),
        (a_document(keys=[{"id": "a", "key": KEY}]), r"keys\[0\]\.active_from: must be a time"),
        (a_document(keys=[A_KEY, A_KEY]), "keys: two keys have the same id"),
    ],
)
def test_a_wrong_document_is_refused_by_its_member_and_no_value(document, place):
    text = document if isinstance(document, str | bytes) else json.dumps(document)

    with pytest.raises(ConfigurationError, match=f"^MQ_ENCRYPTION_KEYS: {place}") as refused:
        key_ring.parse(text, source="MQ_ENCRYPTION_KEYS")

    for value in ("canary", KEY, "2026-12"):
        assert value not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_the_latest_key_whose_time_has_come_encrypts_and_all_decrypt():
    old, current, next_ = (new_key(NOW + timedelta(hours=hours)) for hours in (-2, -1, 1))
    ring = KeyRing([next_, old, current], bytes(32), clock=lambda: NOW)

    assert ring.current is current
    later = key_ring.parse(
        json.dumps(ring.to_document()), source="x", clock=lambda: NOW + timedelta(hours=1)
    )
    assert later.current.id == next_.id
    assert later.unwrap(ring.wrap(bytes(32))) == bytes(32)
    with pytest.raises(ConfigurationError, match="no key is active yet"):
        KeyRing([next_], bytes(32), clock=lambda: NOW).wrap(bytes(32))


def test_a_file_that_is_replaced_is_read_again_and_a_broken_one_is_not(tmp_path, monkeypatch):
    path, clock = tmp_path / "keys.json", [0.0]
    first, second = a_ring(), a_ring()
    write(path, first)
    keys = KeyFile(path, source="MQ_ENCRYPTION_KEYS", clock=lambda: clock[0])
    assert keys.ring.current.id == first.current.id

    write(path, second)
    assert keys.ring.current.id == first.current.id
    wrapped = second.wrap(bytes(32))
    assert keys.unwrap(wrapped) == bytes(32)  # an unknown key is looked for at once
    with pytest.raises(UnknownKey):
        keys.unwrap(first.wrap(bytes(32)))

    path.write_text("{ half a docu")
    clock[0] += key_file.CHECK_SECONDS
    assert keys.unwrap(keys.wrap(bytes(32))) == bytes(32)
    path.unlink()
    clock[0] += key_file.CHECK_SECONDS
    assert keys.ring.current.id == second.current.id
    assert keys.digest_key() == second.digest_key()

    write(path, first)
    clock[0] += key_file.CHECK_SECONDS
    assert keys.ring.current.id == first.current.id


def test_each_form_of_a_source_is_read(tmp_path):
    ring, path = a_ring(), tmp_path / "the keys.json"
    write(path, ring)
    text = path.read_text()

    for source in (path.as_uri(), f"file:{path}", f"file://localhost{path}"):
        assert sources.provider(source).digest_key() == ring.digest_key()
    assert sources.provider("env:KEYS", environment={"KEYS": text}).digest_key()
    for attribute in ("source_of_this_module", "SourceOfKeys"):
        assert sources.provider(f"python:{__name__}:{attribute}").digest_key()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be file:///"),
        ("canary", "must be file:///"),
        ("https://canary.example/keys", "must be file:///"),
        ("file:", "file: needs a path"),
        ("file://host.example/keys.json", "file: needs a path"),
        ("file://[canary", "file: needs a path"),
        ("file:///canary/missing.json", r"the file cannot be read \(FileNotFoundError\)"),
        ("file:///", r"the file cannot be read \(IsADirectoryError\)"),
        ("file:///canary%00", r"the file cannot be read \(ValueError\)"),
        ("env:", "names a variable that is not set"),
        ("env:CANARY", "names a variable that is not set"),
        ("env:WRONG", "the variable: is no JSON document"),
        ("python:canary", r"python: cannot be imported \(ModuleNotFoundError\)"),
        ("python:", r"python: cannot be imported \(ValueError\)"),
        (f"python:{__name__}:canary", r"python: cannot be imported \(AttributeError\)"),
        (f"python:{__name__}:nothing", "python: has no digest_key, wrap, unwrap"),
        (f"python:{__name__}:KEY", "python: has no digest_key, wrap, unwrap"),
    ],
)
def test_a_wrong_source_is_refused_without_its_text(text, reason):
    with pytest.raises(ConfigurationError, match=f"^MQ_ENCRYPTION_KEYS: {reason}") as refused:
        sources.provider(text, environment={"WRONG": "canary"})

    assert "canary" not in str(refused.value).lower()


def test_a_package_that_the_module_of_a_source_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "canary_source.py").write_text("import a_missing_package")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigurationError, match=r"\(ModuleNotFoundError: a_missing_package\)"):
        sources.provider("python:canary_source:keys")


@pytest.fixture
def undecided(monkeypatch) -> None:
    monkeypatch.setattr(producer_encryption, "_choice", None)


def body_column(**changes: Any) -> Any:
    parameters = outbox.insert(an_event(**changes)).compile().params
    return parameters["content_encoding_m0"]


@pytest.mark.usefixtures("undecided")
def test_the_environment_decides_when_the_first_event_is_recorded(tmp_path, monkeypatch):
    write(tmp_path / "keys.json", a_ring())
    monkeypatch.setenv("MQ_ENCRYPTION_KEYS", (tmp_path / "keys.json").as_uri())

    assert body_column() == ENCODING
    monkeypatch.delenv("MQ_ENCRYPTION_KEYS")
    assert body_column() == ENCODING


@pytest.mark.usefixtures("undecided")
def test_the_environment_decides_too_in_a_process_that_only_reads_replies(tmp_path, monkeypatch):
    ring = a_ring()
    write(tmp_path / "keys.json", ring)
    monkeypatch.setenv("MQ_ENCRYPTION_KEYS", (tmp_path / "keys.json").as_uri())

    digest = producer_encryption.digest_of("correlation_id", "visit-7")

    assert digest == Encryptor(ring).digest("correlation_id", "visit-7")


@pytest.mark.usefixtures("undecided")
def test_a_process_without_keys_records_plaintext_unless_it_is_refused(monkeypatch):
    monkeypatch.setenv("MQ_ENCRYPTION_KEYS", "")
    assert body_column() is None
    with pytest.raises(InvalidEvent, match="subject: needs MQ_ENCRYPTION_KEYS"):
        body_column(subject="patient-17")

    producer_encryption.use_environment({"MQ_REQUIRE_ENCRYPTION": "true"})
    with pytest.raises(InvalidEvent, match="payload: must be encrypted"):
        body_column()
    with pytest.raises(ConfigurationError, match="MQ_REQUIRE_ENCRYPTION: must be true or false"):
        producer_encryption.use_environment({"MQ_REQUIRE_ENCRYPTION": "canary"})


@pytest.mark.usefixtures("undecided")
def test_keys_that_a_program_gives_count_more_than_the_environment(monkeypatch):
    monkeypatch.setenv("MQ_ENCRYPTION_KEYS", "file:///missing")
    subjects = SubjectsInMemory()

    outbox.use_encryption(a_ring(), subjects=subjects)
    assert body_column(subject="patient-17") == ENCODING
    assert len(subjects.by_digest) == 1
    outbox.use_encryption(None)
    assert body_column() is None
    with pytest.raises(ConfigurationError, match="the file cannot be read"):
        outbox.use_encryption("file:///missing")
