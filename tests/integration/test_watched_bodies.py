"""
The bodies that `consumer watch` shows: with a second person, and decrypted.
"""

import json
from datetime import timedelta
from typing import Any

from outbox.encryption import sources
from outbox.encryption.encryptor import Encryptor
from outbox.runtime.service import ExitCode
from outbox.transports.connect import transport
from outbox.wire import codec, row_codec
from relay.settings import RelaySettings
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.commands import CommandLine
from tests.support.deployment import Deployment
from tests.support.keys import key_store
from tests.support.roles import documented_rights, role
from tests.support.watching import Watched, objects

TARGET = "tests.support.effects:consumer"
EXCHANGE = "health_data_exchange"
BECAUSE = ("--because", "ticket 17")
BODY = json.dumps({"note": LEAK_MARKER})


async def test_a_second_person_approves_that_bodies_are_watched(postgres_url, tmp_path):
    logs, file = tmp_path / "logs", f"sqlite:///{tmp_path / 'broker.db'}"
    logs.mkdir()
    async with (
        Deployment(postgres_url, file, logs, MQ_TWO_PERSON="true") as deployment,
        role(postgres_url, *documented_rights("operator")) as (_, second_url),
    ):
        assert await deployment.command("consumer", "topology", TARGET) == 0
        watch = ("consumer", "watch", "test.#", "--seconds", "0.1", "--body", *BECAUSE)
        approve = ("consumer", "approve", TARGET, "1", *BECAUSE)
        second = CommandLine(tmp_path, **deployment.settings | {"MQ_DATABASE_URL": second_url})

        asked = await deployment.run(*watch)
        assert (asked.code, asked.out) == (ExitCode.APPROVAL_NEEDED, "")
        assert "consumer approve MODULE:NAME 1 --because TEXT" in asked.err
        own = await deployment.run(*approve)
        assert (own.code, "another person has to approve it" in own.err) == (2, True)
        given = await second.run(*approve)
        assert (given.code, "watch_bodies of broker" in given.out) == (0, True)

        other = await deployment.run(*watch, "--exchange", "", "--approval", "1")
        assert (other.code, "another act, source or selection" in other.err) == (2, True)
        assert (await deployment.run(*watch, "--approval", "1")).code == 0
        again = await deployment.run(*watch, "--approval", "1")
        assert (again.code, "1 was used" in again.err) == (2, True)
        metadata = await deployment.run("consumer", "watch", "--seconds", "0.1")
        assert metadata.code == 0


async def test_an_encrypted_body_stays_closed_unless_it_is_decrypted(sqlite_url, tmp_path):
    logs, url = tmp_path / "logs", f"sqlite:///{tmp_path / 'broker.db'}"
    logs.mkdir()
    async with (
        key_store(f"sqlite:///{tmp_path / 'keys.db'}") as store,
        Deployment(sqlite_url, url, logs, MQ_ENCRYPTION_KEYS=store.url) as deployment,
    ):
        assert await deployment.command("consumer", "topology", TARGET) == 0
        watched = Watched(deployment)
        options = ("--json", "--limit", "1", *BECAUSE)
        closed = await watched.watching("--body", *options)
        opened = await watched.watching("--decrypt", *options)

        await publish_encrypted(deployment, store)

        assert (await closed.wait(), await opened.wait()) == (0, 0)
        assert LEAK_MARKER not in closed.output
        assert "body_base64" in objects(closed)[0]
        assert json.loads(objects(opened)[0]["body"]) == json.loads(BODY)
        deployment.unset("MQ_ENCRYPTION_KEYS")
        without = await deployment.run("consumer", "watch", "--decrypt", *BECAUSE)
        assert (without.code, "--decrypt: needs MQ_ENCRYPTION_KEYS" in without.err) == (2, True)


async def publish_encrypted(deployment: Deployment, store: Any) -> None:
    subjects = sources.both(store.url, None)[1]
    event = an_event(payload={"note": LEAK_MARKER})
    row = Encryptor(store.ring, subjects=subjects).encrypted(
        row_codec.to_row(event), subject=None, compression="none"
    )
    message = codec.to_wire(row_codec.from_row(row | {"exchange": None}), exchange=EXCHANGE)
    settings = RelaySettings(broker_url=deployment.settings["MQ_BROKER_URL"])
    async with transport(settings, name="test").publisher() as publisher:
        await publisher.ready()
        await publisher.publish([message], within=timedelta(seconds=10))
