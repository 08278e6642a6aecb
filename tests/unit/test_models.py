"""
Models of pydantic from a producer to a handler: they arrive as equal models, or are refused.
"""

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    computed_field,
    create_model,
    field_serializer,
)
from pydantic import dataclasses as pydantic_dataclasses
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from consumer.execution.decode import Attempt, decode_delivery
from consumer.handler import Handler
from consumer.payload_type import PayloadType
from consumer.verdict import DeadLetter, Verdict
from outbox import Event, HealthDataMessage, InvalidEvent, model_json
from outbox.transports.delivery import Delivery
from tests.support.builders import AN_INSTANT, LEAK_MARKER, an_upload, on_the_wire

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
T = TypeVar("T")


def decoded(event: Event, model: type[BaseModel], body: bytes | None = None) -> Attempt | Verdict:
    message = on_the_wire(event, exchange="main")
    message = message if body is None else replace(message, body=body)
    delivery = Delivery(message, 1, redelivered=False)
    handler = Handler("test.happened", payload_type=PayloadType(model))
    return decode_delivery(delivery, handler, now=datetime.now(UTC), oldest=LONG_AGO)


def read(model: type[BaseModel], body: bytes) -> Any:
    attempt = decoded(Event("test.happened", None), model, body)
    assert isinstance(attempt, Attempt), attempt
    return attempt.message.payload


def arrived(payload: BaseModel) -> Any:
    event_type = getattr(payload, "event_type", "test.happened")
    attempt = decoded(Event(event_type, payload), type(payload))
    assert isinstance(attempt, Attempt), attempt
    return attempt.message.payload


def refused(payload: BaseModel) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        Event("test.happened", payload)
    assert LEAK_MARKER not in str(caught.value) + repr(caught.value)
    return caught.value


class Kind(Enum):
    FIRST = "first"
    SECOND = 2


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    A = "a"


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Plain:
    at: datetime


@pydantic_dataclasses.dataclass
class Checked:
    amount: Decimal = Field(alias="theAmount")


class Typed(TypedDict):
    day: date


class Aliased(BaseModel):
    when: str = Field(alias="effectiveDateTime")


class Optionally(BaseModel):
    when: str | None = Field(default=None, alias="effectiveDateTime")


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    first_name: str
    inner: list[Aliased]


class WrittenAs(BaseModel):
    when: str = Field(serialization_alias="effectiveDateTime")


class GeneratedWrittenAs(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(serialization_alias=to_camel))
    first_name: str


class ReadAs(BaseModel):
    when: str = Field(validation_alias="effectiveDateTime")
    one: int = Field(validation_alias=AliasChoices("uno", "une"))
    deep: int = Field(validation_alias=AliasPath("a", 0))


class Parted(BaseModel):
    when: str = Field(validation_alias="in", serialization_alias="out")


class Crossed(BaseModel):
    a: int | None = Field(default=None, alias="b")
    b: int | None = Field(default=None, alias="a")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    day: date
    id: UUID
    amount: Decimal
    kind: Kind
    names: set[str]
    pair: tuple[int, str]
    raw: bytes


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.a * 2


class ComputedAndOpen(Computed):
    model_config = ConfigDict(extra="allow")


class Lax(BaseModel):
    model_config = ConfigDict(extra="ignore")
    inner: Computed


class OfJson(BaseModel):
    text: Json[list[int]]


class Encoded(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    raw: bytes
    amount: Decimal


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    token: Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value())]


class Pets(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Ids(RootModel[set[UUID]]):
    pass


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    name: str
    children: "list[Tree]" = []


class Private(BaseModel):
    a: int
    _seen: int = PrivateAttr(default=0)

    def see(self) -> "Private":
        self._seen += 1
        return self


class Mixed(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=False, frozen=True, from_attributes=True)
    at: datetime
    naive: datetime
    day: date
    clock: time
    took: timedelta
    kind: Kind
    level: Level
    word: Word
    point: Point
    plain: Plain
    checked: Checked
    typed: Typed
    raw: bytes
    frozen: frozenset[int]
    queue: deque[int]
    by_number: dict[int, str]
    by_id: dict[UUID, Decimal]
    either: int | str | list[float]
    json_value: JsonValue
    several: Sequence[int]
    nothing: None = None


MIXED = Mixed(
    at=AN_INSTANT,
    naive=datetime(2026, 1, 1),  # noqa: DTZ001 - a model may have one
    day=date(2026, 1, 1),
    clock=time(1, 2, 3, 4),
    took=timedelta(days=-1, microseconds=7),
    kind=Kind.SECOND,
    level=Level.LOW,
    word=Word.A,
    point=Point(1, 2.5),
    plain=Plain(AN_INSTANT),
    checked=Checked(theAmount=Decimal("1.10")),
    typed={"day": date(2026, 1, 1)},
    raw=b"text",
    frozen=frozenset({1, 2}),
    queue=deque([1, 2]),
    by_number={1: "a"},
    by_id={UUID(int=1): Decimal("1234567890123456789.2500")},
    either="7",
    json_value={"a": [1, None, 1.5, {"b": True}]},
    several=[1, 2],
)
STRICT = Strict(
    at=AN_INSTANT,
    day=date(2026, 1, 1),
    id=UUID(int=1),
    amount=Decimal("1.10"),
    kind=Kind.FIRST,
    names={"a"},
    pair=(1, "b"),
    raw=b"text",
)


@pytest.mark.parametrize(
    "payload",
    [
        an_upload(),
        MIXED,
        STRICT,
        Aliased(effectiveDateTime="now"),
        Optionally(effectiveDateTime="now"),
        Generated(firstName="a", inner=[Aliased(effectiveDateTime="now")]),
        WrittenAs(when="now"),
        GeneratedWrittenAs(first_name="a"),
        ReadAs.model_validate({"effectiveDateTime": "now", "uno": 1, "a": [2]}),
        Parted.model_validate({"in": "now"}),
        Crossed(b=1, a=None),
        Crossed(b=None, a=2),
        Computed(a=1),
        ComputedAndOpen.model_validate({"a": 1, "more": "b"}),
        Lax(inner=Computed(a=1)),
        OfJson(text="[1, 2]"),
        Encoded(raw=b"\xff\x00", amount=Decimal("1.10")),
        Pets(pets=[Cat(lives=9), Dog(token=SecretStr("bone"))]),
        Ids({UUID(int=1), UUID(int=2)}),
        Box[Aliased](content=Aliased(effectiveDateTime="now")),
        Box[Any](content={"a": [1, "b", None]}),
        Tree(name="a", children=[Tree(name="b")]),
        Private(a=1).see(),
    ],
)
def test_a_model_arrives_as_it_was(payload):
    assert arrived(payload).model_dump() == payload.model_dump()
    assert type(arrived(payload)) is type(payload)


@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_in_the_hour_that_is_repeated_in_autumn_is_published(fold):
    time_of_day = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Berlin"))

    found = arrived(of(datetime)(value=time_of_day))

    assert found.value.astimezone(UTC) == time_of_day.astimezone(UTC)


def test_a_time_in_the_hour_that_is_skipped_in_spring_is_published():
    skipped = datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))

    found = arrived(of(datetime)(value=skipped))

    assert found.value.astimezone(UTC) == skipped.astimezone(UTC)


def test_the_alias_travels_where_the_model_reads_it():
    bodies = {
        b'{"effectiveDateTime":"now"}': Aliased(effectiveDateTime="now"),
        b'{"firstName":"a","inner":[{"effectiveDateTime":"b"}]}': Generated(
            firstName="a", inner=[Aliased(effectiveDateTime="b")]
        ),
        b'{"when":"now"}': WrittenAs(when="now"),
        b'{"when":"later"}': Parted.model_validate({"in": "later"}),
    }
    for body, payload in bodies.items():
        assert Event("test.happened", payload).body == body


@pytest.mark.parametrize("model", [Aliased, Optionally])
@pytest.mark.parametrize("name", ["effectiveDateTime", "when"])
def test_a_message_of_an_older_producer_is_read_by_field_name(model, name):
    assert read(model, f'{{"{name}":"now"}}'.encode()).when == "now"


def test_the_rule_of_a_model_counts_where_a_name_is_the_alias_of_another_field():
    assert read(Crossed, b'{"b":1}') == Crossed(b=1)


class Holder(BaseModel):
    value: Any


class Base(BaseModel):
    a: int = 1


class Derived(Base):
    b: str = LEAK_MARKER


class DerivedSecret(Base):
    token: SecretStr = SecretStr(LEAK_MARKER)


@pydantic_dataclasses.dataclass
class Card:
    pin: SecretBytes


def of(annotation: Any, **config: Any) -> type[BaseModel]:
    return create_model("Of", __config__=ConfigDict(**config), value=(annotation, ...))


SECRET = SecretStr(LEAK_MARKER)


@pytest.mark.parametrize(
    ("payload", "field", "problem"),
    [
        (of(SecretStr)(value=SECRET), "payload.value", "secret"),
        (of(SecretBytes)(value=LEAK_MARKER.encode()), "payload.value", "secret"),
        (of(SecretStr | None)(value=SECRET), "payload.value", "secret"),
        (of(int | SecretStr)(value=SECRET), "payload.value", "secret"),
        (of(list[SecretStr])(value=["", LEAK_MARKER]), "payload.value[1]", "secret"),
        (of(dict[str, SecretStr])(value={LEAK_MARKER: LEAK_MARKER}), "payload.value", "secret"),
        (of(Box[SecretStr])(value={"content": SECRET}), "payload.value.content", "secret"),
        (RootModel[SecretStr](SECRET), "payload.root", "secret"),
        (of(Card)(value={"pin": LEAK_MARKER}), "payload.value.pin", "secret"),
        (Holder(value=SECRET), "payload.value", "secret"),
        (
            of(Annotated[SecretStr, Field(min_length=15)])(value=SECRET),
            "payload.value",
            "secret",
        ),
        (of(Base)(value=Derived()), "payload.value", "another class"),
        (of(SerializeAsAny[Base])(value=Derived()), "payload.value", "another class"),
        (of(list[Base])(value=[Base(), DerivedSecret()]), "payload.value[1]", "another class"),
        (Holder(value=(1, 2)), "payload.value", "another value"),
        (Holder(value={1: 2}), "payload.value", "another value"),
        (Holder(value={1: "a", "1": "b"}), "payload.value", "another value"),
        (Holder(value=AN_INSTANT), "payload.value", "another value"),
        (Holder(value=Decimal("1.10")), "payload.value", "another value"),
        (Holder(value=Base()), "payload.value", "another"),
        (
            create_model("X", value=(str, Field("", exclude=True)))(value=LEAK_MARKER),
            "payload.value",
            "excluded",
        ),
        (
            create_model("X", value=(str, Field(exclude=True)))(value=LEAK_MARKER),
            "payload.value",
            "refused by its own model",
        ),
        (of(bytes, ser_json_bytes="base64")(value=b"\xff"), "payload.value", "another value"),
        (
            of(Annotated[str, AfterValidator(lambda text: text + "!")])(value="a"),
            "payload.value",
            "another value",
        ),
        (
            create_model("X", __config__=ConfigDict(extra="allow"))(at=AN_INSTANT),
            "payload",
            "extra values",
        ),
        (of(int).model_construct(value=LEAK_MARKER), "payload.value", "refused"),
        (of(float)(value=float("inf")), "payload.value", "cannot be written"),
        (an_upload().model_copy(update={"record_count": -1}), "payload", "refused"),
    ],
)
def test_a_model_that_would_lose_a_value_is_refused_by_the_field(payload, field, problem):
    error = refused(payload)

    assert error.field == field
    assert problem in error.problem


def test_a_secret_travels_where_its_serializer_says_so():
    class Login(BaseModel):
        token: SecretStr
        keys: list[SecretStr]

        @field_serializer("token")
        def _token(self, secret: SecretStr) -> str:
            return secret.get_secret_value()

        @field_serializer("keys")
        def _keys(self, secrets: list[SecretStr]) -> list[str]:
            return [secret.get_secret_value() for secret in secrets]

    login = Login(token=SecretStr("a"), keys=[SecretStr("b")])

    assert Event("test.happened", login).body == b'{"token":"a","keys":["b"]}'
    assert arrived(login) == login


def test_an_excluded_field_at_its_default_loses_no_value():
    payload = create_model("X", a=(int, 1), value=(str, Field("", exclude=True)))()

    assert arrived(payload) == payload


def test_a_model_deeper_than_json_may_be_is_refused():
    deep: Any = 1
    for _ in range(250):
        deep = [deep]

    assert "levels deep" in refused(Holder(value=deep)).problem


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("annotation", "body", "value"),
    [
        (Decimal, "1.10", Decimal("1.10")),
        (Decimal, "1234567890123456789.25", Decimal("1234567890123456789.25")),
        (Decimal, "12345678901234567890123", Decimal(12345678901234567890123)),
        (Decimal, '"1.10"', Decimal("1.10")),
        (Decimal, "1E+2", Decimal("1E+2")),
        (Decimal | None, "0.10", Decimal("0.10")),
        (list[Decimal], "[1.10, 2.5, 3.00]", [Decimal("1.10"), Decimal("2.5"), Decimal("3.00")]),
        (dict[str, Decimal], '{"a": 1.10}', {"a": Decimal("1.10")}),
        (tuple[float, Decimal, Any], "[1.10, 1.10, 1.10]", (1.1, Decimal("1.10"), 1.1)),
        (JsonValue | Decimal, "1.10", 1.1),
        (str | Decimal, "1.10", Decimal("1.1")),
    ],
)
def test_a_number_reaches_a_decimal_with_all_its_digits(strict, annotation, body, value):
    model = of(annotation, strict=strict)

    found = read(model, f'{{"value": {body}}}'.encode()).value

    assert repr(found) == repr(value)


def test_the_numbers_beside_decimals_stay_what_they_are():
    class Readings(BaseModel):
        model_config = ConfigDict(strict=True)
        at: datetime
        note: JsonValue
        amounts: list[Decimal]
        ratio: float

    body = b'{"at":"2026-01-01T00:00:00Z","note":[1.10],"amounts":[1.10,1.10],"ratio":1.50}'
    found = read(Readings, body)

    assert repr(found.amounts) == repr([Decimal("1.10")] * 2)
    assert [type(found.note[0]), type(found.ratio)] == [float, float]


@pytest.mark.parametrize(
    "name",
    ["type", "metadata", "default", "expected", "fields", "choices", "extra_behavior"],
)
def test_a_field_may_be_called_like_a_key_of_the_schemas_of_pydantic(name):
    model = create_model("Named", **{name: (Decimal, ...)})
    payload = model(**{name: Decimal("1.10")})

    assert arrived(payload) == payload
    assert repr(getattr(read(model, f'{{"{name}": 1.10}}'.encode()), name)) == "Decimal('1.10')"


def test_a_refusal_names_declared_fields_alone():
    class Reading(BaseModel):
        values: dict[str, list[int]]

    body = f'{{"values": {{"{LEAK_MARKER}": [1, "x"]}}}}'.encode()
    found = decoded(Event("test.happened", None), Reading, body)

    assert found == DeadLetter(1, "schema_unsupported")
    assert found.detail == "values.*.[]"


SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=True)),
    (Decimal, st.decimals(allow_nan=True)),
    (bytes, st.binary()),
    (datetime, st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Kind, st.sampled_from(Kind)),
    (Level, st.sampled_from(Level)),
    (SecretStr, st.text().map(SecretStr)),
    (Any, st.one_of(st.text(), st.integers(), st.dates(), st.tuples(st.integers()))),
    (Base, st.sampled_from([Base(), Base(a=2), Derived()])),
]


@st.composite
def shapes(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type, and a strategy for its values."""
    wraps = ["list", "dict", "optional", "tuple", "union"] if depth else []
    if not (wrap := draw(st.sampled_from(["", *wraps]))):
        return draw(st.sampled_from(SCALARS))
    of_type, values = draw(shapes(depth=depth - 1))
    match wrap:
        case "list":
            return list[of_type], st.lists(values, max_size=3)  # type: ignore[valid-type]
        case "dict":
            keys = draw(st.sampled_from([(str, st.text()), (int, st.integers())]))
            return dict[keys[0], of_type], st.dictionaries(keys[1], values, max_size=3)  # type: ignore[index,valid-type]
        case "tuple":
            return tuple[of_type, int], st.tuples(values, st.integers())  # type: ignore[valid-type]
        case "union":
            other, more = draw(st.sampled_from(SCALARS))
            return of_type | other, values | more
        case _:
            return of_type | None, st.none() | values


@st.composite
def models(draw: st.DrawFn) -> BaseModel:
    definitions, values = {}, {}
    for name in draw(st.sets(st.sampled_from(["first_one", "b", "c"]), min_size=1)):
        kind, strategy = draw(shapes())
        alias = draw(st.sampled_from([None, None, f"{name}Alias"]))
        how = draw(st.sampled_from(["alias", "validation_alias", "serialization_alias"]))
        definitions[name] = (kind, Field(**({how: alias} if alias else {})))
        values[name] = draw(strategy)
    config = ConfigDict(
        strict=draw(st.booleans()),
        extra=draw(st.sampled_from(["ignore", "forbid", "allow"])),
        frozen=draw(st.booleans()),
        validate_by_name=True,
    )
    return create_model("Drawn", __config__=config, **definitions)(**values)  # type: ignore[call-overload,no-any-return]


@given(st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
def test_a_model_of_any_shape_arrives_as_it_was_or_is_refused(data):
    try:
        payload = data.draw(models())
    except ValueError:
        return  # not a model, so not a payload
    try:
        event = Event("test.happened", payload)
    except InvalidEvent:
        return

    attempt = decoded(event, type(payload))

    assert isinstance(attempt, Attempt), attempt
    found = attempt.message.payload
    # Python calls times of two zones unequal in an hour that a change of the clocks repeats.
    assert found == payload or model_json.write(found) == model_json.write(payload)


def test_a_refusal_of_an_upload_names_the_field():
    event = an_upload().to_event()
    for body, detail in (
        (event.body.replace(b'"bucket":"uploads",', b""), "bucket"),
        (event.body.replace(b'"bucket"', f'"{LEAK_MARKER}":1,"bucket"'.encode()), "*"),
    ):
        found = decoded(event, HealthDataMessage, body)

        assert found == DeadLetter(1, "schema_unsupported")
        assert found.detail == detail
