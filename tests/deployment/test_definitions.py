"""
The definitions of RabbitMQ: no user can log in without a password file.
"""

import json
import subprocess
import sys

import aio_pika
import pytest
from aio_pika.exceptions import AMQPConnectionError
from yarl import URL

from relay import assembly
from relay.settings import RelaySettings
from tests.support.installation import DEFINITIONS, HASHES_SCRIPT


async def test_a_user_without_a_hash_cannot_log_in(installation, rabbitmq_server):
    definitions = installation.renamed(json.loads(DEFINITIONS.read_text()))
    user, *_ = definitions["users"]
    nameless = {**user, "name": f"{installation.prefix}without_a_hash"}
    http = rabbitmq_server.http
    await http.request("POST", "definitions", body={"users": [nameless]})
    try:
        for word in ("", "guess"):
            url = URL(installation.broker("relay")).with_user(nameless["name"]).with_password(word)
            with pytest.raises(AMQPConnectionError):
                await aio_pika.connect(str(url))
    finally:
        await http.request("DELETE", "users", nameless["name"])


def test_the_exchanges_are_those_that_the_relay_declares():
    declared = assembly.declared(RelaySettings()).exchanges
    exchanges = json.loads(DEFINITIONS.read_text())["exchanges"]

    assert {(each["name"], each["type"]) for each in exchanges} == {
        (each.name, str(each.kind)) for each in declared
    }
    assert all(each["durable"] and not each["arguments"] for each in exchanges)


def test_definitions_in_the_repository_have_no_hash_and_no_administrator():
    users = json.loads(DEFINITIONS.read_text())["users"]

    assert {user["password_hash"] for user in users} == {""}
    assert {tag for user in users for tag in user["tags"].split(",")} <= {"", "monitoring"}


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read as text"), (" \n", "is empty")]
)
def test_a_missing_password_is_an_error_that_names_its_file(content, problem, tmp_path):
    if content is not None:
        (tmp_path / "outbox_topology").write_text(content)
    with DEFINITIONS.open() as definitions:
        done = subprocess.run(
            [sys.executable, HASHES_SCRIPT, tmp_path],
            stdin=definitions,
            capture_output=True,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'outbox_topology'}: {problem}\n"
