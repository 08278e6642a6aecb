"""
Servers that cannot be connected to: a line with the setting, the server and the kind of failure.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

import pytest
import trustme
from sqlalchemy.engine import make_url
from yarl import URL

from outbox import certificate_expiry
from outbox.checks.certificates import of_expiries
from outbox.checks.result import Status
from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.errors import BrokerUnavailable, ConfigurationError, OutboxError, Unavailable
from outbox.postgres_server import server_of
from outbox.postgres_tls import tls_of
from outbox.transports.base import NoCounter
from outbox.transports.rabbitmq.connection import connect
from outbox.transports.rabbitmq.management import RabbitMQManagement
from outbox.transports.rabbitmq.management_client import ManagementClient
from tests.support.certificates import Authority
from tests.support.commands import CommandLine
from tests.support.eventually import eventually
from tests.support.servers.ports import free_ports
from tests.support.tls import outdated_server, tls_server

SECRET = "hunter2-of-the-test"
VERSIONS = "TLS: the server speaks no version of TLS that is accepted: 1.2 or 1.3"
TARGET = "tests.support.effects:consumer"
Connecting = Callable[[str], Awaitable[None]]


async def database_problem(url: str) -> OutboxError:
    async def connected() -> None:
        engine = create_engine(make_url(url), pool_size=1, application_name="test")
        async with engine.connect():
            pass

    with pytest.raises(OutboxError) as caught:
        await connected()
    assert SECRET not in str(caught.value)
    return caught.value


async def broker_problem(*urls: str) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await connect([URL(url) for url in urls], name="test", connections=NoCounter())
    assert SECRET not in str(caught.value)
    return caught.value


async def test_the_kind_of_failure_of_postgres_is_named_with_its_address(postgres_url):
    base = make_url(postgres_url)
    there = f"{base.host}:{base.port}"
    (free,) = free_ports(1)
    for url, where, reason, refused in (
        (base.set(port=free), f"{base.host}:{free}", "connection refused: no server ", False),
        (
            base.set(host="db.invalid"),
            f"db.invalid:{base.port}",
            "the host name cannot be ",
            False,
        ),
        (base.set(password=SECRET), there, "the server refuses the password, or the user ", True),
        (base.set(database=SECRET), there, "the database does not exist (3D000)", True),
        (
            base.update_query_dict({"sslmode": "require"}),
            there,
            "TLS: the server does not offer TLS",
            False,
        ),
        (
            make_url(f"postgresql://u:{SECRET}@/x?host=/nowhere&port=5499"),
            "/nowhere/.s.PGSQL.5499",
            "no server listens on the socket",
            False,
        ),
        (
            base.update_query_dict({"target_session_attrs": "standby"}),
            there,
            "no server is standby",
            False,
        ),
        (
            make_url(f"postgresql://u:{SECRET}@/x?host=127.0.0.1:{free}&host=localhost:{free}"),
            f"127.0.0.1:{free}, localhost:{free}",
            "connection refused: no server ",
            False,
        ),
    ):
        problem = await database_problem(url.render_as_string(hide_password=False))

        assert isinstance(problem, Unavailable)
        assert str(problem).startswith(f"MQ_DATABASE_URL: cannot connect to {where}: {reason}")
        assert problem.refused is refused


async def test_the_kind_of_failure_of_rabbitmq_is_named_with_its_address(
    rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    base = URL(rabbitmq_url)
    there = f"{base.host}:{base.port}"
    (free,) = free_ports(1)
    no_rights = rabbitmq_server.http.lent_user(rabbitmq_vhost, configure="^$")
    other = await rabbitmq_server.create_vhost()
    async with no_rights as (name, password):
        for url, where, reason, refused in (
            (base.with_port(free), f"{base.host}:{free}", "connection refused: no server", False),
            (base.with_host("mq.invalid"), f"mq.invalid:{base.port}", "the host name can", False),
            (base.with_password(SECRET), there, "the broker refuses user or password", True),
            (base.with_path(f"/{SECRET}"), there, "the virtual host does not exist: ", True),
            (
                base.with_user(name).with_password(password).with_path(f"/{other}"),
                there,
                "the user has no rights on the virtual host: ",
                True,
            ),
            (base.with_scheme("amqps"), there, "TLS: the port does not speak TLS", False),
            (
                base.with_scheme("amqps").update_query(cafile="/nowhere/ca.pem"),
                there,
                "cafile: the file does not exist",
                True,
            ),
        ):
            problem = await broker_problem(str(url))

            assert str(problem).startswith(f"MQ_BROKER_URL: cannot connect to {where}: {reason}")
            assert problem.refused is refused
    await rabbitmq_server.http.delete_vhost(other)

    both = await broker_problem(str(base.with_port(free)), str(base.with_password(SECRET)))
    assert str(both) == (
        f"MQ_BROKER_URL: cannot connect to {base.host}:{free}: connection refused: no server "
        f"listens there; to {there}: the broker refuses user or password"
    )
    assert not both.refused


async def test_the_reason_of_a_failed_tls_handshake_is_named_for_both_servers(tmp_path):
    authority, other = Authority(tmp_path), Authority(tmp_path, "other.pem")
    (tmp_path / "text.pem").write_text("no certificate")
    cases = (
        (authority.context("127.0.0.1", days=-1), authority.path, "certificate has expired"),
        (other.context("127.0.0.1"), authority.path, "certificate is signed by an unknown author"),
        (authority.context("db.example"), authority.path, "certificate is for another "),
        (None, authority.path, "TLS: the "),
        (authority.context("127.0.0.1"), "/nowhere.pem", "the file does not exist"),
        (authority.context("127.0.0.1"), tmp_path / "text.pem", "the file has no certificate"),
        (authority.context("127.0.0.1"), tmp_path, "is a directory instead of a file"),
        (authority.context("127.0.0.1"), "system", "certificate is signed by an unknown author"),
    )
    for context, file, reason in cases:
        async with tls_server(context, asked=True) as port:
            problem = await database_problem(
                f"postgresql://u:{SECRET}@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={file}"
            )
            assert reason in str(problem)
            assert str(problem).startswith("MQ_DATABASE_URL: ")
        if context is None:
            continue
        async with tls_server(context, asked=False) as port:
            problem = await broker_problem(f"amqps://u:{SECRET}@127.0.0.1:{port}/x?cafile={file}")
            assert reason in str(problem)
            assert str(problem).startswith(f"MQ_BROKER_URL: cannot connect to 127.0.0.1:{port}: ")


async def test_a_server_without_a_version_of_tls_that_is_accepted_is_named_as_such():
    async with outdated_server(asked=True) as port:
        url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/x?sslmode=require"
        assert str(await database_problem(url)).endswith(VERSIONS)
    async with outdated_server(asked=False) as port:
        assert str(await broker_problem(f"amqps://u:{SECRET}@127.0.0.1:{port}/x")).endswith(
            VERSIONS
        )


async def test_a_certificate_of_the_client_without_its_key_is_refused_by_the_setting(
    tmp_path, monkeypatch
):
    authority, client = Authority(tmp_path), trustme.CA().issue_cert("client.example")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    client.cert_chain_pems[0].write_to_path(certificate)
    client.private_key_pem.write_to_path(key)
    no_key = "the file of the certificate has no key in PEM format: name a file with"
    only_key = "the file of the certificate has no certificate in PEM format"
    async with tls_server(authority.context("127.0.0.1"), asked=True) as port:
        for mode in ("verify-full", "require", "prefer"):
            url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/x?sslmode={mode}"
            for variables, problem in (
                ({"PGSSLKEY": key}, "PGSSLKEY: is set, and PGSSLCERT is not"),
                ({"PGSSLCERT": certificate}, f"PGSSLCERT, PGSSLKEY: {no_key} the key"),
                ({"PGSSLCERT": key}, f"PGSSLCERT, PGSSLKEY: {only_key}"),
                ({"PGSSLCERT": key, "PGSSLKEY": certificate}, f"PGSSLCERT, PGSSLKEY: {only_key}"),
            ):
                with monkeypatch.context() as environment:
                    for name, file in variables.items():
                        environment.setenv(name, str(file))
                    assert str(await database_problem(url)).startswith(problem)
        url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/x?sslmode=require"
        setting = "MQ_DATABASE_URL: sslcert, sslkey"
        for parameters, problem in (
            (f"sslcert={certificate}", f"{no_key} the key"),
            (f"sslcert={key}", only_key),
            (f"sslcert={tmp_path}/none.pem&sslkey={key}", "the file does not exist"),
            (f"sslcert={certificate}&sslkey={tmp_path}", "is a directory instead of a file"),
        ):
            found = str(await database_problem(f"{url}&{parameters}"))
            assert found.startswith(f"{setting}: {problem}")
    async with tls_server(authority.context("127.0.0.1"), asked=False) as port:
        url = f"amqps://u:{SECRET}@127.0.0.1:{port}/x?cafile={authority.path}"
        problem = str(await broker_problem(f"{url}&certfile={certificate}"))
        assert f"certfile, keyfile: {no_key} the key" in problem


async def test_a_certificate_that_ends_soon_is_named_with_the_setting_of_its_server(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(certificate_expiry, "_PRESENTED", {})
    authority = Authority(tmp_path)

    async def to_database(url: str) -> None:
        await create_engine(make_url(url), pool_size=1, application_name="test").connect()

    async def to_broker(url: str) -> None:
        await connect([URL(url)], name="test", connections=NoCounter())

    async def to_management(url: str) -> None:
        def shake_hands() -> None:  # to its end, although the task is cancelled
            with closing(ManagementClient(URL(url)).connection()) as connection:
                connection.connect()

        await asyncio.to_thread(shake_hands)

    async def warnings(connecting: Connecting, url: str, *, days: float) -> list[str]:
        """What a check would print after a handshake with a certificate that ends in *days*."""
        certificate_expiry.forget()
        context = authority.context("127.0.0.1", days=days)
        async with tls_server(context, asked=connecting is to_database) as port:
            address = url.format(port=port, file=authority.path)
            connected = asyncio.create_task(connecting(address))
            # The server says no word after the handshake.
            await eventually(lambda: bool(certificate_expiry.expiries()), within=20)
            connected.cancel()
            await asyncio.wait({connected})
        found = of_expiries(certificate_expiry.expiries(), datetime.now(UTC))
        return [each.text for each in found if each.status is Status.WARNING]

    cases: list[tuple[str, Connecting, str]] = [
        (
            "MQ_DATABASE_URL",
            to_database,
            "postgresql://u@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={file}",
        ),
        ("MQ_BROKER_URL", to_broker, "amqps://u:p@127.0.0.1:{port}/x?cafile={file}"),
        ("MQ_MANAGEMENT_URL", to_management, "https://u:p@127.0.0.1:{port}?cafile={file}"),
    ]
    for setting, connecting, url in cases:
        (line,) = await warnings(connecting, url, days=29)
        assert line.startswith(f"{setting}: the server's certificate expires at ")
        assert await warnings(connecting, url, days=31) == []


async def test_a_key_of_a_client_is_ignored_where_no_tls_is_spoken(monkeypatch, tmp_path):
    monkeypatch.setenv("PGSSLKEY", "key.pem")
    for url in (
        "postgresql://u@localhost/x?sslmode=disable",
        f"postgresql://u@/x?host={tmp_path}",
    ):
        assert tls_of(server_of(make_url(url), os.environ)) is False


async def test_a_certificate_that_is_trusted_passes_the_handshake(tmp_path):
    authority = Authority(tmp_path)
    async with tls_server(authority.context("127.0.0.1"), asked=True) as port:
        for mode in ("verify-full", "verify-ca", "require"):
            url = f"postgresql://u@127.0.0.1:{port}/x?sslmode={mode}&sslrootcert={authority.path}"
            engine = create_engine(make_url(url), pool_size=1, application_name="test")
            # The server says no word after the handshake.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), engine.connect():
                    pass


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x15\x03\x03"])
async def test_a_port_of_another_protocol_is_no_broker(greeting):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    problem = await broker_problem(f"amqp://u:{SECRET}@127.0.0.1:{port}/")
    server.close()

    assert str(problem).startswith(f"MQ_BROKER_URL: cannot connect to 127.0.0.1:{port}: the ")
    assert not problem.refused


@asynccontextmanager
async def closed_database(server, url: str) -> AsyncIterator[None]:
    name = make_url(url).database
    await server.freeze_database(name)
    try:
        yield
    finally:
        await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.parametrize(
    "command",
    [
        ("relay", "check"),
        ("relay", "status"),
        ("relay", "migrate"),
        ("relay", "dead", "list"),
        ("relay", "dead", "drop", "--all", "--because", "test"),
        ("consumer", "check", TARGET),
        ("consumer", "status", TARGET),
        ("consumer", "purge", TARGET),
        ("consumer", "dead", "list", TARGET),
    ],
    ids=" ".join,
)
async def test_a_command_on_a_database_that_refuses_it_prints_one_line(
    postgres_server, postgres_url, rabbitmq_url, tmp_path, command
):
    run = CommandLine(tmp_path, MQ_BROKER_URL=rabbitmq_url)
    missing = make_url(postgres_url).set(database="missing").render_as_string(hide_password=False)
    async with closed_database(postgres_server, postgres_url):
        closed = await run.run(*command, MQ_DATABASE_URL=postgres_url)
    absent = await run.run(*command, MQ_DATABASE_URL=missing)

    where = f"{make_url(postgres_url).host}:{make_url(postgres_url).port}"
    line = f"error: MQ_DATABASE_URL: cannot connect to {where}: the database does not "
    # `check` goes on to the broker, where no queue is declared yet.
    for ended, code, reason in (
        (closed, 3, "accept connections (55000)"),
        (absent, 2, "exist (3D000)"),
    ):
        errors = [each for each in ended.err.splitlines() if each.startswith("error: ")]
        assert (ended.code, errors[0]) == (code, f"{line}{reason}")
    assert "Traceback" not in run.printed


async def test_a_migration_behind_a_lock_says_that_it_changed_nothing(
    postgres_server, postgres_url, tmp_path
):
    await asyncio.to_thread(migrate.downgrade, postgres_url, "0005")
    async with (
        postgres_server.connection(make_url(postgres_url).database) as other,
        other.transaction(),
    ):
        await other.execute("LOCK TABLE ordering_salt IN ACCESS EXCLUSIVE MODE")
        done = await CommandLine(tmp_path).run("relay", "migrate", MQ_DATABASE_URL=postgres_url)

    assert done.code == 3
    assert done.err.startswith(
        "error: another session holds a lock on the tables, so the last step of the migration was "
        "rolled back: run it again when that session has ended ("
    )


async def test_a_migration_of_a_newer_schema_says_so(postgres_server, postgres_url, tmp_path):
    run = CommandLine(tmp_path, MQ_DATABASE_URL=postgres_url)
    unknown = await run.run("relay", "migrate", "0998")
    async with postgres_server.connection(make_url(postgres_url).database) as other:
        await other.execute("UPDATE outbox_relay_version SET version_num = '0999'")

    newer = await run.run("relay", "migrate")

    assert newer.code == 2
    assert "0999" in newer.err
    assert "newer version" in newer.err
    assert (unknown.code, unknown.err) == (2, "error: REVISION: there is no such revision\n")


async def test_the_kind_of_failure_of_the_management_api_is_named_with_its_address():
    (port,) = free_ports(1)
    for url, problem in (
        (
            f"http://u:{SECRET}@localhost:{port}",
            f"cannot connect to localhost:{port}: connection refused: no server listens there",
        ),
        (
            f"https://u:{SECRET}@mq.invalid",
            "cannot connect to mq.invalid:443: the host name cannot be resolved",
        ),
    ):
        with pytest.raises(BrokerUnavailable) as caught:
            await RabbitMQManagement(URL(url), vhost="/").queues("")

        assert str(caught.value) == f"MQ_MANAGEMENT_URL: {problem}"

    with pytest.raises(ConfigurationError) as refused:
        await RabbitMQManagement(URL("https://u:p@localhost?cafile=/nowhere"), vhost="/").queues(
            ""
        )

    assert str(refused.value) == "MQ_MANAGEMENT_URL: cafile: the file does not exist"


async def test_a_directory_of_authorities_that_is_missing_is_named():
    problem = await broker_problem("amqps://u:p@localhost:1/?capath=/nowhere")

    assert str(problem).endswith("localhost:1: capath: the directory does not exist")
    assert problem.refused
