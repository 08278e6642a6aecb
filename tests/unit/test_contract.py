"""
The AsyncAPI document of a consumer, and what a stored one says that its handlers no longer read.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from consumer.contract.comparison import Comparison, compare
from consumer.contract.document import document
from consumer.contract.files import text_of
from consumer.settings import ConsumerSettings
from outbox import HealthDataMessage
from outbox.errors import ConfigurationError
from tests.support.asyncapi import violations

SECRET = "hunter2-of-the-test"


class Reading(BaseModel):
    event_type: ClassVar[str] = "reading.taken"
    value: float
    unit: Literal["mmol/l", "mg/dl"] = "mmol/l"
    previous: "Reading | None" = None


class Renamed(BaseModel):
    event_type: ClassVar[str] = "reading.taken"
    measured: float = Field(validation_alias=AliasChoices("measured", "value"))
    unit: Literal["mmol/l", "mg/dl"] = "mmol/l"
    earlier: "Renamed | None" = Field(None, validation_alias=AliasChoices("earlier", "previous"))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    value: Annotated[float, Field(ge=0)]


class Admission(BaseModel):
    kind: Literal["admission"]
    ward: tuple[str, int]


class Discharge(BaseModel):
    kind: Literal["discharge"]
    tags: frozenset[str] = frozenset({"a", "b", "c", "d"})


@dataclass
class Vital:
    pulse: int


Stay = Annotated[Admission | Discharge, Field(discriminator="kind")]


def etl(**payloads: Any) -> Consumer:
    """A consumer with a handler for each event, whose dots are written as `_`."""
    consumer = Consumer("etl", bindings=["reading.*", "ward.#"])
    for name, payload in payloads.items():

        async def handle(message: Any, session: AsyncSession) -> None: ...

        handle.__annotations__["message"] = Message[payload]
        consumer.on(name.replace("_", "."))(handle)
    return consumer


def described(consumer: Consumer, **options: Any) -> dict[str, Any]:
    settings = ConsumerSettings(
        database_url=f"postgresql://etl:{SECRET}@db.example/etl?sslmode=verify-full",
        broker_url=f"amqps://etl:{SECRET}@broker.example/",
    )
    return document(consumer, settings, version="1.2.3", **options)


KINDS = {
    "reading_taken": Reading,
    "ward_moved": Stay,
    "vital_taken": Vital,
    "vitals_taken": dict[str, list[Vital]],
    "anything_else": Any,
    "image_stored": bytes,
}


def test_a_document_is_valid_and_names_every_event_with_its_payload():
    found = described(etl(**KINDS), sent={"health.data.uploaded": HealthDataMessage})

    assert violations(found) == []
    messages = found["components"]["messages"]
    received = {name for name in messages if name.startswith("receive.")}
    assert received == {f"receive.{name.replace('_', '.')}" for name in KINDS}
    assert messages["receive.reading.taken"]["payload"] == {"$ref": "#/components/schemas/Reading"}
    assert messages["receive.anything.else"]["payload"] == {}
    assert messages["receive.image.stored"]["contentType"] == "application/octet-stream"
    assert found["operations"]["receive.reading.taken"]["action"] == "receive"
    assert found["operations"]["send.health.data.uploaded"]["action"] == "send"
    assert found["channels"]["queue"]["address"] == "health_data_processing.etl"
    assert found["channels"]["binding.2"]["address"] == "ward.#"


def test_a_document_has_no_server_and_no_secret_and_is_the_same_each_time():
    one = text_of(described(etl(**KINDS)))
    other = text_of(described(etl(**dict(reversed(KINDS.items())))))

    assert one == other
    assert SECRET not in one
    assert ".example" not in one
    assert '["a", "b", "c", "d"]' in one.replace("\n", "").replace("  ", "").replace(",", ", ")


def test_a_payload_without_a_json_schema_is_refused_by_the_name_of_its_event():
    with pytest.raises(ConfigurationError, match=r"^event a\.b: its payload has no JSON Schema"):
        described(etl(a_b=Callable[[], int]))


def compared(old: Any, new: Any) -> Comparison:
    return compare(described(etl(reading_taken=old)), described(etl(reading_taken=new)))


@pytest.mark.parametrize("payload", KINDS.values(), ids=KINDS)
def test_handlers_read_all_that_their_own_document_allows(payload):
    assert compared(payload, payload) == Comparison([], [])


@pytest.mark.parametrize("new", [Any, object, bytes])
def test_a_handler_that_takes_any_payload_reads_all_that_another_did(new):
    assert compared(Reading, new) == Comparison([], [])


def test_a_new_event_is_compatible_and_a_missing_one_is_not():
    before, now = described(etl(a_b=Vital)), described(etl(a_b=Vital, c_d=Vital))

    assert compare(before, now).incompatible == []
    assert compare(now, before).incompatible == ["event c.d: has no handler any more"]


def test_findings_name_the_event_and_the_field_and_never_a_value():
    assert compared(Reading, Strict).incompatible == [
        "event reading.taken: value: has a narrower minimum",
        "event reading.taken: unit: is refused now",
        "event reading.taken: previous: is refused now",
        "event reading.taken: payload: fields that the contract does not name are refused now",
    ]


def test_a_field_that_is_renamed_with_alias_choices_is_read_under_both_names():
    assert compared(Reading, Renamed) == Comparison([], [])
    assert compared(Renamed, Reading).incompatible == [
        "event reading.taken: value: is required now"
    ]
    assert violations(described(etl(reading_taken=Renamed))) == []


def test_another_content_type_is_incompatible():
    assert compared(bytes, Reading).incompatible == [
        "event reading.taken: payload: its content type is another one"
    ]


def test_a_document_that_another_tool_wrote_can_be_the_contract():
    stored = described(etl(reading_taken=Reading))
    message = stored["components"]["messages"].pop("receive.reading.taken")
    channel = {"address": "q", "messages": {"reading.taken": message}}
    del message["name"], message["contentType"], message["bindings"], message["traits"]
    payload = {"schemaFormat": "application/schema+json;version=draft-07", "schema": {}}
    message["payload"] = payload | {"schema": {"$ref": "#/components/schemas/Reading"}}
    stored["channels"] = {"a/b": channel}
    stored["operations"] = {
        "read": {"action": "receive", "channel": {"$ref": "#/channels/a~1b"}},
        "other": {"action": "send", "channel": {"$ref": "#/channels/a~1b"}},
    }

    assert violations(stored) == []
    # Without messages an operation is about those of its channel.
    assert compare(stored, described(etl(reading_taken=Reading))) == Comparison([], [])
    assert compare(stored, described(etl(c_d=Vital))).incompatible == [
        "event reading.taken: has no handler any more"
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.clear(),
        lambda it: it.update(asyncapi="2.6.0"),
        lambda it: it["operations"]["receive.reading.taken"].pop("action"),
        lambda it: it["operations"].update(a=5),
        lambda it: it["channels"].clear(),
        lambda it: it["components"]["schemas"]["Reading"].update(properties=5),
        lambda it: it["components"]["schemas"]["Reading"].update(required=5),
        lambda it: it["channels"].update(queue={"$ref": "#/channels/queue"}),
        lambda it: it["channels"].update(queue={"$ref": "other.json#/a"}),
    ],
    ids=map(str, count()),
)
def test_a_file_that_is_no_asyncapi_document_is_refused(change):
    current = described(etl(reading_taken=Reading))
    stored = copy.deepcopy(current)
    change(stored)

    with pytest.raises(ConfigurationError, match=r"^--contract: .*is no "):
        compare(stored, current)
