"""
Servers that demand a certificate of the client: what they say without it, and that it is used.
"""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from yarl import URL

from outbox.database.engine import create_engine
from outbox.errors import Unavailable
from outbox.transports.base import NoCounter
from outbox.transports.rabbitmq.connection import close, connect
from tests.support.servers.private_rabbitmq import PrivateRabbitmq
from tests.support.tls import Authority, certificates_demanded_by, certificates_demanded_of

USER = "certified"


def files_of(folder: Path, authority: Authority, *names: str) -> list[dict[str, str]]:
    """Return parameters of a URL for a certificate of *authority*, and for one of another."""
    pairs = [
        each.pair("client.example", owner=USER) for each in (authority, Authority(folder, "other"))
    ]
    return [dict(zip(names, map(str, pair), strict=True)) for pair in pairs]


async def login(url: sa.URL, **parameters: str) -> tuple[str, bool]:
    engine = create_engine(url.update_query_dict(parameters), pool_size=1, application_name="test")
    try:
        async with engine.connect() as connection:
            query = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            return tuple((await connection.execute(sa.text(query))).one())
    finally:
        await engine.dispose()


async def connected(url: URL, **parameters: str) -> None:
    await close(
        await connect([url.update_query(parameters)], name="test", connections=NoCounter())
    )


async def test_a_client_logs_in_to_postgres_with_its_certificate_only(
    postgres_server, postgres_url, tmp_path
):
    if not postgres_server.stoppable:
        pytest.fail("this test changes pg_hba.conf, and others may use the given server")
    authority = Authority(tmp_path)
    own, foreign = files_of(tmp_path, authority, "sslcert", "sslkey")
    base = make_url(postgres_url).set(drivername="postgresql", username=USER, password=None)
    url = base.update_query_dict({"sslmode": "verify-full", "sslrootcert": str(authority.path)})

    async with certificates_demanded_of(USER, postgres_server, authority):
        for files, reason in (
            ({}, "the server refuses user, password or certificate, or pg_hba.conf has no line"),
            (foreign, "client's certificate"),
        ):
            with pytest.raises(Unavailable, match="MQ_DATABASE_URL: cannot connect") as refused:
                await login(url, **files)
            assert reason in str(refused.value)
        found = await login(url, **own)

    assert found == (USER, True)


async def test_a_client_connects_to_rabbitmq_with_its_certificate_only(
    rabbitmq_server, rabbitmq_url, tmp_path
):
    if not isinstance(rabbitmq_server._instance, PrivateRabbitmq):
        pytest.fail("only a server on this machine can get another port")
    authority = Authority(tmp_path)
    own, foreign = files_of(tmp_path, authority, "certfile", "keyfile")
    port = await certificates_demanded_by(rabbitmq_server, authority)
    url = URL(rabbitmq_url).with_scheme("amqps").with_host("127.0.0.1").with_port(port)
    url = url.update_query(cafile=str(authority.path))

    for files, reason in (({}, "demands a certificate of the client"), (foreign, "certificate")):
        with pytest.raises(Unavailable, match="MQ_BROKER_URL: cannot connect") as refused:
            await connected(url, **files)
        assert reason in str(refused.value)
    await connected(url, **own)
