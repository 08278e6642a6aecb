"""
`consumer asyncapi` and `consumer check --contract`, without any server.
"""

import json

import pytest

from tests.support.asyncapi import violations
from tests.support.commands import CommandLine

SECRET = "hunter2-of-the-test"
URLS = {
    "MQ_DATABASE_URL": f"postgresql://etl:{SECRET}@127.0.0.1:1/etl",
    "MQ_BROKER_URL": f"amqp://etl:{SECRET}@127.0.0.1:1/",
}
SERVICE = """
from typing import ClassVar, Literal

from pydantic import BaseModel

from consumer import Consumer, Message

class Reading(BaseModel):
    event_type: ClassVar[str] = "reading.taken"
    value: VALUE
    unit: Literal["mmol/l", "mg/dl"]

etl = Consumer("etl", bindings=["#"])

@etl.on(Reading)
async def load(message: Message[Reading], session): ...
"""


@pytest.fixture
def run(tmp_path) -> CommandLine:
    return CommandLine(tmp_path, **URLS)


def write_service(run: CommandLine, value: str) -> None:
    (run.directory / "service.py").write_text(SERVICE.replace("VALUE", value))


def test_a_document_is_written_and_checked_without_a_server(run):
    write_service(run, "float")
    document = ("consumer", "asyncapi", "service:etl")

    printed = run(*document)
    assert (printed.code, printed.err) == (0, "")
    assert violations(json.loads(printed.out)) == []

    written = run(*document, "--output", "etl.json")
    assert (written.code, written.out, written.err) == (0, "", "")
    assert (run.directory / "etl.json").read_text() == printed.out
    assert SECRET not in printed.out

    checked = run("consumer", "check", "service:etl", "--contract", "etl.json")
    assert (checked.code, checked.err) == (0, "")

    write_service(run, "int")
    checked = run("consumer", "check", "service:etl", "--contract", "etl.json")
    assert checked.code == 2
    assert checked.err == (
        "error: event reading.taken: value: its type was number, and is integer\n"
    )


def test_a_document_names_the_service_and_the_events_that_it_sends(run):
    write_service(run, "float")

    ended = run(
        *("consumer", "asyncapi", "service:etl", "--title", "Readings", "--version", "2.1"),
        *("--events", "service", "--events", "outbox"),
    )

    found = json.loads(ended.out)
    assert violations(found) == []
    assert found["info"] == {"title": "Readings", "version": "2.1"}
    assert [name for name in found["operations"] if name.startswith("send.")] == [
        "send.health.data.uploaded",
        "send.reading.taken",
    ]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (
            ["check", "service:etl", "--contract", "none.json"],
            "--contract: none.json cannot be read",
        ),
        (
            ["check", "service:etl", "--contract", "service.py"],
            "--contract: service.py is no JSON",
        ),
        (
            ["asyncapi", "service:etl", "--output", "none/etl.json"],
            "--output: none/etl.json cannot be written",
        ),
        (["asyncapi", "service:etl", "--events", "none"], "--events: there is no module none"),
        (["asyncapi", "service:etl", "--events", "json"], "--events: json has no model"),
    ],
)
def test_a_bad_argument_is_a_line_and_status_2(run, command, problem):
    write_service(run, "float")

    ended = run("consumer", *command)

    assert ended.code == 2
    assert ended.err.startswith(f"error: {problem}")
    assert len(ended.err.splitlines()) == 1
