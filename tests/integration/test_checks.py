"""
What `relay check` and `consumer check` find on real servers, and that they leave nothing behind.
"""

import json
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

import outbox
from outbox.database import server_facts
from outbox.transports.inspection import (
    Act,
    BindingOf,
    BrokerFacts,
    Consuming,
    Permission,
    Publishing,
)
from outbox.transports.rabbitmq.management import RabbitMQManagement
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from tests.support.builders import an_event
from tests.support.certificates import Authority
from tests.support.commands import CommandLine, Ended
from tests.support.pgbouncer import pgbouncer
from tests.support.servers import RabbitmqServer
from tests.support.servers.ports import free_port
from tests.support.tls import postgres_tls

SECRET = "hunter2-of-the-test"
TARGET = "tests.support.effects:consumer"
QUORUM = {"x-queue-type": "quorum"}
TOPOLOGY = Topology(
    exchanges=[Exchange("main", "topic"), Exchange("other", "topic"), Exchange("keyed", "topic")],
    queues=[Queue("mine", QUORUM), Queue("others", QUORUM)],
    bindings=[
        Binding(exchange, queue, "#")
        for exchange in ("main", "other", "keyed")
        for queue in ("mine", "others")
    ],
)


def transport(url: str) -> RabbitMQTransport:
    return RabbitMQTransport([URL(url)], heartbeat_seconds=10, name="test")


async def entities(server: RabbitmqServer, vhost: str) -> dict[str, Any]:
    """All exchanges, queues with their messages, and bindings of *vhost*."""
    exchanges, bindings = [
        await server.http.request("GET", kind, vhost) for kind in ("exchanges", "bindings")
    ]
    return {
        "exchanges": sorted(each["name"] for each in exchanges),
        "queues": await server.http.queues(vhost),
        "bindings": sorted((b["source"], b["destination"], b["routing_key"]) for b in bindings),
    }


def permissions(facts: BrokerFacts) -> dict[tuple[Act, str | None], Permission]:
    return {(each.act, each.routing_key): each.permission for each in facts.answers}


async def test_the_broker_says_what_a_user_may_do_and_nothing_changes(
    rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    http = rabbitmq_server.http
    await transport(rabbitmq_url).declare(TOPOLOGY)
    before = await entities(rabbitmq_server, rabbitmq_vhost)
    async with http.lent_user(rabbitmq_vhost, configure="^$") as (name, password):
        allowed = {"configure": "^$", "write": "^(main|keyed|mine)$", "read": "^(main|mine)$"}
        await http.request("PUT", "permissions", rabbitmq_vhost, name, body=allowed)
        keyed = {"exchange": "keyed", "write": "^glucose[.]", "read": ".*"}
        await http.request("PUT", "topic-permissions", rabbitmq_vhost, name, body=keyed)
        url = str(URL(rabbitmq_url).with_user(name).with_password(password))

        of_user = await transport(url).inspect(
            [
                Publishing("main"),
                Publishing("other"),
                Publishing(""),
                Publishing("keyed"),
                Publishing("keyed", ("glucose.taken", "ward.moved")),
                Consuming("mine"),
                Consuming("others"),
                BindingOf("main", "mine"),
                BindingOf("main", "others"),
                BindingOf("other", "mine"),
            ]
        )
    of_owner = await transport(rabbitmq_url).inspect(
        [
            Publishing("main", ("a.b",)),
            Publishing("gone"),
            Consuming("mine"),
            Consuming("gone"),
            BindingOf("main", "mine"),
        ]
    )

    granted, refused = Permission.GRANTED, Permission.REFUSED
    found = permissions(of_user)
    keys = Publishing("keyed", ("glucose.taken", "ward.moved"))
    assert found == {
        (Publishing("main"), None): granted,
        (Publishing("other"), None): refused,
        (Publishing(""), None): refused,
        (Publishing("keyed"), None): Permission.UNKNOWN,
        (keys, "glucose.taken"): granted,
        (keys, "ward.moved"): Permission.REFUSED_BY_KEY,
        (Consuming("mine"), None): granted,
        (Consuming("others"), None): refused,
        (BindingOf("main", "mine"), None): granted,
        (BindingOf("main", "others"), None): refused,
        (BindingOf("other", "mine"), None): refused,
    }
    assert permissions(of_owner) == {
        (Publishing("main", ("a.b",)), "a.b"): granted,
        (Publishing("gone"), None): Permission.MISSING,
        (Consuming("mine"), None): granted,
        (Consuming("gone"), None): Permission.MISSING,
        (BindingOf("main", "mine"), None): granted,
    }
    assert (of_owner.product, of_owner.is_blocked) == ("RabbitMQ", False)
    assert await entities(rabbitmq_server, rabbitmq_vhost) == before


async def test_an_alarm_is_known_with_and_without_the_management_api(
    rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    await transport(rabbitmq_url).declare(Topology(exchanges=[Exchange("main", "topic")]))
    acts = [Publishing("main"), Publishing("")]
    api = RabbitMQManagement(URL(rabbitmq_server.management_url), vhost=rabbitmq_vhost)

    calm = await api.health()
    async with rabbitmq_server.memory_alarm():
        blocked, health = await transport(rabbitmq_url).inspect(acts), await api.health()

    assert blocked.is_blocked
    assert {each.permission for each in blocked.answers} == {Permission.BLOCKED}
    (alarm,) = health.alarms
    assert alarm.startswith("memory on ")
    assert not calm.alarms
    assert calm.clock is not None
    assert abs(calm.clock.certain.total_seconds()) < 1


@pytest.fixture
def run(tmp_path, postgres_url, rabbitmq_url) -> CommandLine:
    return CommandLine(tmp_path, MQ_DATABASE_URL=postgres_url, MQ_BROKER_URL=rabbitmq_url)


def results(ended: Ended) -> dict[str, list[tuple[str, str]]]:
    """The results that `--json` has printed, by the name of the check."""
    found: dict[str, list[tuple[str, str]]] = {}
    for each in json.loads(ended.out):
        assert each.keys() == {"check", "status", "text"}
        found.setdefault(each["check"], []).append((each["status"], each["text"]))
    return found


async def test_a_check_names_each_key_without_a_queue_and_prints_the_same_as_json(
    run: CommandLine, server: AsyncEngine, rabbitmq_server, rabbitmq_vhost
):
    api = {"MQ_MANAGEMENT_URL": rabbitmq_server.management_url}
    for command in (("relay", "topology"), ("consumer", "topology", TARGET)):
        assert (await run.run(*command)).code == 0
    before = await entities(rabbitmq_server, rabbitmq_vhost)
    good = await run.run("relay", "check", "--json", **api)
    async with server.begin() as connection:
        bound = [an_event(type="test.happened") for _ in range(3)]
        unbound = [an_event(type="payment.made") for _ in range(2)]
        await connection.execute(outbox.insert(*bound, *unbound))

    without_api = results(await run.run("relay", "check", "--json"))
    shown = await run.run("relay", "check", **api)
    of_consumer = await run.run("consumer", "check", TARGET, "--json")

    assert (good.code, good.err) == (0, "")
    assert {status for each in results(good).values() for status, _ in each} <= {"ok", "warning"}
    assert without_api["routing_keys"] == [
        (
            "not_checked",
            "whether queues are bound for events, because MQ_MANAGEMENT_URL is not set",
        )
    ]
    assert shown.code == 2
    (error,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert error == (
        "error: 2 waiting events with the routing key payment.made: no queue is bound to exchange"
        " health_data_exchange for it: bind one, as `consumer topology` does"
    )
    assert "ok: 3 waiting events would reach a queue" in shown.out
    assert of_consumer.code == 0, of_consumer.out
    assert {status for status, _ in results(of_consumer)["permissions"]} == {"ok"}
    assert await entities(rabbitmq_server, rabbitmq_vhost) == before


async def test_a_check_of_a_user_without_rights_names_each_right_that_a_start_needs(
    run: CommandLine, rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    for command in (("relay", "topology"), ("consumer", "topology", TARGET)):
        assert (await run.run(*command)).code == 0
    http = rabbitmq_server.http
    async with http.lent_user(rabbitmq_vhost, configure="^$", read="^$") as (name, password):
        nothing = {"configure": "^$", "write": "^$", "read": "^x$"}
        await http.request("PUT", "permissions", rabbitmq_vhost, name, body=nothing)
        url = str(URL(rabbitmq_url).with_user(name).with_password(password))
        of_relay = await run.run("relay", "check", "--json", MQ_BROKER_URL=url)
        of_consumer = await run.run("consumer", "check", TARGET, "--json", MQ_BROKER_URL=url)

    assert (of_relay.code, of_consumer.code) == (2, 2)
    queue = "health_data_processing.effects"
    may_not = "the broker's user may not"
    texts = [text for _, text in results(of_relay)["permissions"]]
    assert f"{may_not} publish to exchange health_data_exchange: grant write on" in texts[0]
    assert "MQ_DECLARE_TOPOLOGY=false" in texts[1]
    texts = [text for status, text in results(of_consumer)["permissions"] if status == "error"]
    for act in (
        f"consume from queue {queue}: grant read on {queue} ",
        f"bind queue {queue} to exchange health_data_exchange: grant write on {queue} and read on",
        "publish to the default exchange: grant write on amq.default ",
        "publish to exchange health_data_dlx: grant write on health_data_dlx ",
    ):
        assert any(text.startswith(f"{may_not} {act}") for text in texts), act


async def test_a_pooler_that_shares_sessions_is_found_before_any_statement_fails(
    run: CommandLine, postgres_url, rabbitmq_url
):
    async with pgbouncer(postgres_url, mode="transaction") as url:
        found = [await run.run("relay", "check", "--json", MQ_DATABASE_URL=url)]
        parameter = f"{url}?pgbouncer=1"
        found.append(await run.run("relay", "check", "--json", MQ_DATABASE_URL=parameter))
    async with pgbouncer(postgres_url, mode="session") as url:
        in_session_mode = await server_facts.read(make_url(url), application_name="test")
    directly = await server_facts.read(make_url(postgres_url), application_name="test")

    wrong, right = map(results, found)
    ((status, text),) = wrong["database_pooler"]
    assert status == "error"
    assert text.endswith("add ?pgbouncer=1")
    assert wrong["schema"][0][0] == "not_checked"
    assert right["database_pooler"][0][0] == "ok"
    assert right["schema"][0][0] == "ok"
    for facts, is_pooled in ((in_session_mode, True), (directly, False)):
        assert (facts.is_pooled, facts.shares_sessions) == (is_pooled, False)
        assert facts.version >= (14, 0)
        assert abs(facts.clock.certain.total_seconds()) < 1


async def test_the_end_of_a_certificate_is_known_although_it_is_not_verified(
    postgres_server, postgres_url, tmp_path
):
    async with postgres_tls(postgres_server) as tls:
        await tls.present(Authority(tmp_path).pair("127.0.0.1"))
        url = make_url(postgres_url).update_query_dict({"sslmode": "prefer"})
        facts = await server_facts.read(url, application_name="test")

    assert facts.is_encrypted
    assert facts.certificate_ends is not None


async def test_each_kind_of_failure_of_a_server_is_a_line_with_its_exit_code(
    run: CommandLine, rabbitmq_server, rabbitmq_vhost, rabbitmq_url, postgres_url
):
    broker, database = URL(rabbitmq_url), make_url(postgres_url).set(drivername="postgresql")
    api, port = URL(rabbitmq_server.management_url), free_port()
    closed = {
        "MQ_DATABASE_URL": database.set(port=port).render_as_string(hide_password=False),
        "MQ_BROKER_URL": str(broker.with_port(port)),
        "MQ_MANAGEMENT_URL": str(api.with_port(port)),
    }
    unknown = {
        "MQ_DATABASE_URL": f"postgresql://u:{SECRET}@db.invalid/x?sslmode=verify-full",
        "MQ_BROKER_URL": f"amqps://u:{SECRET}@mq.invalid/x",
        "MQ_MANAGEMENT_URL": f"https://u:{SECRET}@mq.invalid:15671",
    }
    wrong = {
        "MQ_DATABASE_URL": database.set(password=SECRET).render_as_string(hide_password=False),
        "MQ_BROKER_URL": str(broker.with_password(SECRET)),
        "MQ_MANAGEMENT_URL": str(api.with_password(SECRET)),
    }
    assert (await run.run("consumer", "topology", TARGET)).code == 0
    for urls, code, reason in (
        (closed, 3, "connection refused"),
        (unknown, 3, "the host name cannot be resolved"),
        (wrong, 2, "refuse"),
    ):
        done = await run.run("consumer", "check", TARGET, **urls)
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert done.code == code
        for setting, error in zip(urls, errors, strict=True):
            assert error.startswith(f"error: {setting}: ")
            assert reason in error
        alone = await run.run("relay", "check", MQ_BROKER_URL=urls["MQ_BROKER_URL"])
        assert alone.code == code, alone.err
    started = await run.run(
        "consumer", "run", TARGET, MQ_METRICS_PORT="0", MQ_BROKER_URL=wrong["MQ_BROKER_URL"]
    )
    assert started.code == 2
    assert SECRET not in run.printed


async def test_json_is_refused_for_a_comparison_of_contracts(run: CommandLine):
    done = await run.run("consumer", "check", TARGET, "--json", "--contract", "none.json")

    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --json: cannot be used with --contract\n"


async def test_a_check_without_valid_settings_is_json_too(run: CommandLine):
    done = await run.run("relay", "check", "--json", MQ_DATABASE_URI="postgresql://x")

    assert done.code == 2
    ((status, text),) = results(done)["settings"]
    assert status == "error"
    assert text.startswith("MQ_DATABASE_URI: there is no such setting")
