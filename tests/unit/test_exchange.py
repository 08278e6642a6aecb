"""
Exchanges and bindings as users declare them, in code and in MQ_EXCHANGES.
"""

import pytest

from consumer import Consumer, exchanges
from consumer.checks import declared
from consumer.settings import ConsumerSettings
from outbox import Binding, Event, Exchange, InvalidEvent
from outbox.errors import ConfigurationError
from outbox.settings import load
from outbox.transports import topology
from outbox.transports.topology import ExchangeBinding
from outbox.transports.user_topology import described
from relay import assembly
from relay.settings import RelaySettings

MAIN = "health_data_exchange"
VITALS = Exchange("vitals", "fanout", "unrouted", ["health.vitals.#"])
BY_UNIT = Exchange("by_unit", "headers", bindings=[Binding("vitals")])
AS_JSON = """[
  {"name": "vitals", "kind": "fanout", "alternate": "unrouted", "bindings": ["health.vitals.#"]},
  {"name": "by_unit", "kind": "headers", "bindings": [{"exchange": "vitals"}]}
]"""


def of_setting(monkeypatch: pytest.MonkeyPatch, value: str) -> tuple[Exchange, ...]:
    monkeypatch.setenv("MQ_EXCHANGES", value)
    return load(RelaySettings).exchanges


def test_names_with_kinds_are_exchanges(monkeypatch):
    assert of_setting(monkeypatch, "vitals:fanout, by_unit:headers,plain") == (
        Exchange("vitals", "fanout"),
        Exchange("by_unit", "headers"),
        Exchange("plain", "topic"),
    )


def test_json_has_all_that_code_has(monkeypatch):
    assert of_setting(monkeypatch, AS_JSON) == (VITALS, BY_UNIT)


def test_a_relay_declares_exchanges_and_what_binds_them(monkeypatch):
    monkeypatch.setenv("MQ_EXCHANGES", AS_JSON)

    found = assembly.declared(load(RelaySettings))

    assert found.exchanges[2:] == [
        topology.Exchange("vitals", "fanout", "unrouted"),
        topology.Exchange("by_unit", "headers"),
    ]
    assert found.exchange_bindings == [
        ExchangeBinding(MAIN, "vitals", "health.vitals.#"),
        ExchangeBinding("vitals", "by_unit", "#"),
    ]
    assert described(found)[2:] == [
        "exchange vitals (fanout, alternate unrouted)",
        "exchange by_unit (headers)",
        f"exchange vitals gets health.vitals.# of exchange {MAIN}",
        "exchange by_unit gets # of exchange vitals",
    ]


def test_the_main_exchange_may_have_an_alternate_one(monkeypatch):
    monkeypatch.setenv("MQ_EXCHANGES", f'[{{"name": "{MAIN}", "alternate": "unrouted"}}]')

    [main, _] = assembly.declared(load(RelaySettings)).exchanges

    assert main == topology.Exchange(MAIN, "topic", "unrouted")


def test_a_consumer_binds_its_queue_to_several_exchanges():
    headers = {"source": "ward", "schema-version": 2}
    chosen = Binding("by_unit", headers=headers, match="any")
    consumer = Consumer(
        "etl", bindings=["health.#", Binding("vitals"), chosen], exchanges=[VITALS, BY_UNIT]
    )

    found = declared(consumer, ConsumerSettings())

    queue = "health_data_processing.etl"
    assert found.bindings[1:] == [
        topology.Binding(MAIN, queue, "health.#"),
        topology.Binding("vitals", queue, "#"),
        topology.Binding("by_unit", queue, "", headers, "any"),
    ]
    assert [each.name for each in found.exchanges[2:]] == ["vitals", "by_unit"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("vitals:fan", "item 1: exchange vitals: kind must be topic, direct, fanout, headers"),
        ("a:topic,b c", "item 2: exchange: name must be 1 to 200 letters, digits and _.:-"),
        ("[7]", "item 1: must be NAME, NAME:KIND or a JSON object"),
        ("[{}]", "item 1: name is missing"),
        ('[{"name": "a", "type": 1}]', "item 1: may have alternate, bindings, kind, name only"),
        ('[{"name": "a", "alternate": ""}]', "item 1: exchange a: alternate must be the name"),
        ('[{"name": "a", "alternate": "a"}]', "item 1: exchange a: alternate must be another"),
        ('[{"name": "a", "bindings": "b"}]', "item 1: exchange a: bindings must be a list"),
        ('[{"name": "a", "bindings": [{}]}]', "item 1: exchange is missing"),
        ('[{"name": "a", "bindings": [{"exchange": "a"}]}]', "bindings must name other exchanges"),
        ("[", "must be a JSON list, or items separated by commas"),
        ("a,a:fanout", "exchange a is declared 2 times"),
        ("health_data_dlx:direct", "exchange health_data_dlx is that of MQ_DLX_EXCHANGE"),
        (f"{MAIN}:fanout", f"exchange {MAIN} is that of MQ_MAIN_EXCHANGE, whose kind is topic"),
        (
            '["d:direct", {"name": "a", "bindings": [{"exchange": "d"}]}]',
            "exchange a: binding to exchange d: a direct exchange needs a pattern",
        ),
    ],
)
def test_a_wrong_list_of_exchanges_is_refused_by_its_item(monkeypatch, value, problem):
    with pytest.raises(ConfigurationError) as refused:
        of_setting(monkeypatch, value)
    assert str(refused.value).startswith("MQ_EXCHANGES: ")
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"exchange": ""}, "exchange must be"),
        ({"exchange": "a", "pattern": ""}, "pattern must be"),
        ({"exchange": "a", "pattern": "x" * 256}, "pattern must be"),
        ({"exchange": "a", "match": "none", "headers": {"unit": 1}}, "match must be all or any"),
        (
            {"exchange": "a", "match": ["any"], "headers": {"unit": 1}},
            "match must be all or any",
        ),
        ({"exchange": "a", "match": "any"}, "match=any needs headers"),
        ({"exchange": "a", "headers": {}}, "headers must be a mapping that is not empty"),
        ({"exchange": "a", "headers": {"x-match": "any"}}, "headers has a name that is reserved"),
        ({"exchange": "a", "headers": {"Unit": 1}}, "headers has a name that is reserved"),
        ({"exchange": "a", "headers": {"unit": 1.5}}, "headers.unit must be"),
        ({"exchange": "a", "headers": {"unit": 2**63}}, "headers.unit must be"),
        ({"exchange": "a", "pattern": "b", "headers": {"unit": 1}}, "not both"),
    ],
)
def test_a_wrong_binding_is_refused_by_its_argument(arguments, problem):
    with pytest.raises(ConfigurationError, match=problem):
        Binding(**arguments)


@pytest.mark.parametrize(
    ("binding", "problem"),
    [
        (Binding("vitals", "a.#"), "a fanout exchange reads no pattern"),
        (Binding("vitals", headers={"source": "a"}), "headers need a headers exchange"),
        (Binding("exact"), "a direct exchange needs a pattern"),
        (Binding("by_unit", "a"), "a headers exchange reads no pattern"),
        (Binding("by_unit", headers={"unit": "mg"}), "header unit: add it to MQ_ALLOWED_HEADERS"),
    ],
)
def test_a_binding_that_its_exchange_cannot_follow_is_named(binding, problem):
    consumer = Consumer(
        "etl", bindings=[binding], exchanges=[VITALS, BY_UNIT, Exchange("exact", "direct")]
    )

    [found] = exchanges.problems(consumer, ConsumerSettings())

    assert found.startswith(f"consumer etl: binding to exchange {binding.exchange}: ")
    assert problem in found


def test_a_header_that_events_may_have_can_be_asked_for():
    consumer = Consumer("etl", bindings=[Binding("h", headers={"unit": "mg"})])
    assert not list(exchanges.problems(consumer, ConsumerSettings(allowed_headers=("unit",))))


def test_an_exchange_of_code_and_of_settings_is_the_same_or_refused():
    consumer = Consumer("etl", bindings=["#"], exchanges=[VITALS])

    assert exchanges.declared(consumer, ConsumerSettings(exchanges=[VITALS])) == [VITALS]
    [problem] = exchanges.problems(consumer, ConsumerSettings(exchanges="vitals:topic"))
    assert problem == "consumer etl: exchange vitals is declared 2 times"


@pytest.mark.parametrize("value", ["a b", "é", "a" * 201, 7, "a\n"])
def test_an_event_names_an_exchange_or_none(value):
    with pytest.raises(InvalidEvent, match=r"^exchange: must be"):
        Event("a.b", {}, exchange=value)
    for exchange in ("vitals", "", None):
        assert Event("a.b", {}, exchange=exchange).exchange == exchange
