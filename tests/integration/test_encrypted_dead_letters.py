"""
Dead letters with encrypted bodies: found, shown, exported, repaired and replayed by commands.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from consumer.execution.decryption import Decryption
from consumer.storage import stored_message
from outbox import Event
from outbox.database.engine import create_engine
from outbox.encryption import sources
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_ring import new_ring
from outbox.encryption.key_tables import ERASED, subject_keys
from outbox.key_store.reader import SubjectKeyStore
from outbox.tables import outbox
from outbox.wire import codec, row_codec
from outbox.wire.encrypted import ENCODING
from tests.support.builders import AN_INSTANT
from tests.support.commands import CommandLine, Ended
from tests.support.dead_letters import QUEUE, SOURCE, remaining, write_dead_letter
from tests.support.keys import KeyStore, key_store

PRIVATE = "canary-of-health-data"
BECAUSE = ("--because", "the handler is fixed")


@pytest.fixture
async def store(tmp_path: Path):
    async with key_store(f"sqlite:///{tmp_path / 'keys.db'}") as made:
        yield made


@pytest.fixture
async def engine(sqlite_url: str):
    engine = create_engine(make_url(sqlite_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
def shell(sqlite_url: str, tmp_path: Path, store: KeyStore) -> CommandLine:
    return CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_ENCRYPTION_KEYS=store.url)


def a_letter(store: KeyStore, *, of_relay: bool = False, **fields: Any) -> dict[str, Any]:
    """The columns of a dead letter of the consumer `effects`, or of the relay."""
    subjects = sources.both(store.url, None)[1]
    encryptor = Encryptor(store.ring, subjects=subjects)
    event = Event("test.happened", {"note": PRIVATE}, ordering_key=f"{PRIVATE}-1", **fields)
    row = encryptor.encrypted(
        row_codec.to_row(event), subject=event.subject, compression="none"
    ) | {"exchange": None}
    del row["not_before"]
    if of_relay:
        identity = str(row.pop("event_id"))
        return (
            {"source": "relay", "reason": "unroutable", "attempts": 1}
            | row
            | {"message_id": identity}
        )
    message = codec.to_wire(row_codec.from_row(row), exchange="main")
    return {
        "source": SOURCE,
        "queue": QUEUE,
        "reason": "retries_exhausted",
        "attempts": 1,
        "ordering_key": row["ordering_key"],
        **stored_message.to_columns(message),
    }


async def test_an_encrypted_body_is_shown_and_exported_as_it_is_and_decrypted_on_request(
    shell: CommandLine, engine: Any, store: KeyStore, tmp_path: Path
) -> None:
    dead = ("consumer", "dead")
    target, file = "tests.support.effects:consumer", tmp_path / "letters.jsonl"
    letter = a_letter(store, correlation_id=f"{PRIVATE}-2")
    [id_] = await write_dead_letter(engine, letter)
    of_person = await write_dead_letter(engine, a_letter(store, subject=f"{PRIVATE}-3"))

    shown = await shell.run(*dead, "show", target, str(id_), "--body", *BECAUSE)
    assert f"encrypted with key {store.ring.current.id}" in shown.out
    person = await shell.run(*dead, "show", target, str(*of_person), "--body", *BECAUSE)
    assert "encrypted with the key of a person" in person.out
    assert (await shell.run(*dead, "export", target, str(file), "--bodies", *BECAUSE)).code == 0
    assert PRIVATE not in shell.printed + file.read_text()
    exported = json.loads(file.read_text().splitlines()[0])
    assert exported["content_encoding"] == ENCODING
    assert base64.b64decode(exported["body_base64"]) == letter["body"]

    for each in (id_, *of_person):
        decrypted = await shell.run(*dead, "show", target, str(each), "--decrypt", *BECAUSE)
        assert json.dumps({"note": PRIVATE}, separators=(",", ":")) in decrypted.out
    without = await shell.run(
        *dead, "show", target, str(id_), "--decrypt", *BECAUSE, MQ_ENCRYPTION_KEYS=""
    )
    assert without.code == 2
    await store.rows(sa.update(subject_keys).values(state=ERASED, wrapped=None))
    person = await shell.run(*dead, "show", target, str(*of_person), "--decrypt", *BECAUSE)
    assert "subject_erased: the key of its person was destroyed" in person.err
    other = tmp_path / "other.json"
    other.write_text(json.dumps(new_ring(AN_INSTANT).to_document()))
    wrong = await shell.run(
        *dead, "show", target, str(id_), "--decrypt", *BECAUSE, MQ_ENCRYPTION_KEYS=other.as_uri()
    )
    assert f"{store.ring.current.id}: the source of MQ_ENCRYPTION_KEYS, or" in wrong.err


async def test_a_dead_letter_is_found_by_the_digest_of_its_key(
    shell: CommandLine, engine: Any, store: KeyStore
) -> None:
    await write_dead_letter(engine, a_letter(store), a_letter(store, of_relay=True))

    async def found(*options: str, **settings: str) -> Ended:
        key = ("--key", f"{PRIVATE}-1", *BECAUSE)
        return await shell.run("relay", "dead", "list", *key, *options, **settings)

    assert "1 of 1" in (await found()).out


@pytest.mark.parametrize("of_relay", [False, True], ids=["consumer", "relay"])
async def test_a_repaired_body_is_encrypted_for_the_same_person_and_keeps_its_private_fields(
    shell: CommandLine, engine: Any, store: KeyStore, tmp_path: Path, of_relay: bool
) -> None:
    dead = ("relay", "dead") if of_relay else ("consumer", "dead")
    target = () if of_relay else ("tests.support.effects:consumer",)
    letter = a_letter(
        store, of_relay=of_relay, subject=f"{PRIVATE}-3", correlation_id=f"{PRIVATE}-2"
    )
    [id_] = await write_dead_letter(engine, letter)
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"note": "repaired"}))
    repair = (*dead, "replay", *target, str(id_), "--body", str(file), *BECAUSE)

    refused = await shell.run(*repair, MQ_ENCRYPTION_KEYS="env:NONE")
    assert refused.code == 2
    [kept] = await remaining(engine)
    assert kept["body"] == letter["body"]

    if not of_relay:
        assert (await shell.run("consumer", "topology", *target)).code == 0
    assert (await shell.run(*repair)).code == 0, shell.printed
    assert await remaining(engine) == []
    if of_relay:
        async with engine.connect() as connection:
            [row] = (await connection.execute(sa.select(outbox))).mappings()
        assert row["content_encoding"] == ENCODING
        envelope = row_codec.from_row(row)
        subjects = SubjectKeyStore(store.engine, store.ring, setting="KEYS")
        decryption = Decryption(Decryptor(store.ring), subjects)
        message = codec.to_wire(envelope, exchange="main")
        async with decryption.reading([message]) as reading:
            read = codec.from_wire(message, decrypt=reading.decrypt)
        assert json.loads(read.body) == {"note": "repaired"}
        assert read.correlation_id == f"{PRIVATE}-2"
    assert PRIVATE not in shell.printed


async def test_a_check_says_which_key_encrypts_and_what_is_wrong_with_the_source(
    shell: CommandLine, store: KeyStore, tmp_path: Path
) -> None:
    check = ("consumer", "check", "tests.support.effects:consumer")
    readable = tmp_path / "keys.json"
    readable.write_text(json.dumps(store.ring.to_document()))
    readable.chmod(0o644)

    found = (await shell.run(*check)).out
    assert f"key {store.ring.current.id} encrypts, for 0 days; a key database has" in found
    found = (await shell.run(*check, MQ_ENCRYPTION_KEYS=f"file://{readable}")).err
    assert "all users of this host may read the file" in found
    gone = await shell.run(*check, MQ_ENCRYPTION_KEYS=f"file://{tmp_path / 'gone.json'}")
    assert gone.code == 2
    assert "MQ_ENCRYPTION_KEYS: the file cannot be read" in gone.out + gone.err
    del shell.settings["MQ_ENCRYPTION_KEYS"]
    required = await shell.run(*check, MQ_REQUIRE_ENCRYPTION="true")
    assert required.code == 2
    assert (
        "MQ_ENCRYPTION_KEYS: is needed with MQ_REQUIRE_ENCRYPTION" in required.out + required.err
    )
