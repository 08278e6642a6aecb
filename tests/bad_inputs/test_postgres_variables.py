"""
The PG variables of libpq: checked like the URL where they fill its gaps, and else without effect.
"""

import os
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.database.engine import create_engine
from outbox.errors import ConfigurationError
from outbox.postgres_server import server_of
from outbox.settings import SharedSettings, load
from tests.support.commands import CommandLine

SECRET = "hunter2-of-the-test"

HOSTILE = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGUSER": "mallory",
    "PGPASSWORD": "of mallory",
    "PGPASSFILE": "/nowhere/pgpass",
    "PGDATABASE": "of_mallory",
    "PGSERVICE": "of_mallory",
    "PGSERVICEFILE": "/nowhere/services",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/nowhere/ca.pem",
    "PGSSLCERT": "/nowhere/cert.pem",
    "PGSSLKEY": "/nowhere/key.pem",
    "PGSSLCRL": "/nowhere/crl.pem",
    "PGSSLMINPROTOCOLVERSION": "TLSv9",
    "PGSSLNEGOTIATION": "direct",
    "PGTARGETSESSIONATTRS": "standby",
    "PGOPTIONS": "-c search_path=mallory",
}


@pytest.fixture
def variables(clean_environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove the PG variables of a developer."""
    for name in list(os.environ):
        if name.startswith("PG"):
            clean_environment.delenv(name)
    return clean_environment


@pytest.mark.parametrize(
    ("url", "set_by_others"),
    [
        ("postgresql:///x", {"PGHOST": "127.0.0.2"}),
        ("postgresql:///x", {"PGHOST": "db.example"}),
        ("postgresql:///x", {"PGHOST": "localhost,db.example"}),
        ("postgresql:///x", {"PGHOST": "/run/postgresql,db.example:5433"}),
        ("postgresql:///x", {"PGHOST": "db.example", "PGSSLMODE": "require"}),
        ("postgresql:///x", {"PGHOST": "db.example", "PGSSLMODE": "verify-ca"}),
        ("postgresql:///x?sslmode=disable", {"PGHOST": "db.example", "PGSSLMODE": "verify-full"}),
        ("postgresql://db.example/x?sslmode=prefer", {"PGSSLMODE": "verify-full"}),
        ("postgresql://db.example/x", {"PGSSLMODE": "allow"}),
        ("postgresql:///x", {"PGSERVICE": "db"}),
        ("postgresql:///x", {"PGHOSTADDR": "192.0.2.1"}),
    ],
)
def test_a_server_that_a_variable_names_is_refused_like_one_in_the_url(
    variables, url, set_by_others
):
    variables.setenv("MQ_DATABASE_URL", url)
    for name, value in set_by_others.items():
        variables.setenv(name, value)

    with pytest.raises(ConfigurationError, match=r"^MQ_DATABASE_URL: ") as caught:
        load(SharedSettings)

    assert "example" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "set_by_others"),
    [
        ("postgresql:///x", {"PGHOST": "127.0.0.1", "PGPORT": "5433"}),
        ("postgresql:///x", {"PGHOST": "/run/postgresql"}),
        ("postgresql://localhost/x", {"PGHOST": "db.example"}),
        ("postgresql://localhost/x", {"PGSERVICE": "db"}),
        ("postgresql://db.example/x", {"PGSSLMODE": "verify-full"}),
        ("postgresql:///x?sslmode=verify-full", {"PGHOST": "a.example,b.example:1"}),
    ],
)
def test_a_server_of_a_variable_that_is_local_or_verified_is_accepted(
    variables, url, set_by_others
):
    variables.setenv("MQ_DATABASE_URL", url)
    for name, value in set_by_others.items():
        variables.setenv(name, value)

    load(SharedSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGPORT", SECRET),
        ("PGPORT", "0"),
        ("PGPORT", "1,2"),
        ("PGSSLMODE", SECRET),
        ("PGTARGETSESSIONATTRS", SECRET),
        ("?port", SECRET),
        ("?sslmode", SECRET),
        ("?target_session_attrs", SECRET),
        ("?prepared_statement_cache_size", SECRET),
        ("?host", "a:1,b:70000"),
        (f"?{SECRET}", "1"),
    ],
)
def test_a_value_that_the_driver_would_refuse_is_refused_without_showing_it(
    variables, name, value
):
    if name.startswith("?"):
        variables.setenv("MQ_DATABASE_URL", f"postgresql:///x{name}={value}")
    else:
        variables.setenv("MQ_DATABASE_URL", "postgresql://localhost/x")
        variables.setenv(name, value)

    with pytest.raises(ConfigurationError, match=name.strip("?") if "PG" in name else "URL"):
        load(SharedSettings)
    with pytest.raises(ConfigurationError) as caught:
        load(SharedSettings)

    assert SECRET not in str(caught.value)


async def test_the_driver_gets_every_value_of_the_url_whatever_the_variables_say(variables):
    given: dict[str, Any] = {}

    async def connect(**arguments: Any) -> Any:
        given.update(arguments)
        raise ConnectionRefusedError

    variables.setattr(asyncpg, "connect", connect)
    for name, value in HOSTILE.items():
        variables.setenv(name, value)
    url = "postgresql://ana:secret@localhost:5433/x?sslmode=disable&target_session_attrs=primary"
    engine = create_engine(make_url(url), pool_size=1, application_name="test")
    with pytest.raises(Exception, match="connection refused"):
        await engine.connect().start()

    assert given["host"] == ["localhost"]
    assert given["port"] == [5433]
    assert (given["user"], given["password"], given["database"]) == ("ana", "secret", "x")
    assert (given["ssl"], given["direct_tls"]) == (False, False)
    assert given["target_session_attrs"] == "primary"


async def test_a_url_with_all_parts_reaches_its_server_whatever_the_variables_say(
    variables, postgres_url
):
    url = make_url(postgres_url).update_query_dict(
        {"sslmode": "disable", "target_session_attrs": "any"}
    )
    with variables.context() as hostile:
        for name, value in HOSTILE.items():
            hostile.setenv(name, value)
        engine = create_engine(url, pool_size=1, application_name="test")
        async with engine.connect() as connection:
            found = await connection.scalar(sa.text("SELECT current_database()"))
        await engine.dispose()

    assert found == url.database


def test_an_empty_password_in_the_url_is_no_password():
    url = make_url("postgresql://u:@localhost/x")

    assert server_of(url, {}).password is None
    assert server_of(url, {"PGPASSWORD": "p"}).password == "p"


def test_variables_fill_the_gaps_of_a_url(empty_postgres_url, tmp_path):
    url = make_url(empty_postgres_url)
    run = CommandLine(
        tmp_path,
        MQ_DATABASE_URL="postgresql://",
        PGHOST=f"{url.host}:{url.port}",
        PGUSER=url.username,
        PGPASSWORD=url.password,
        PGDATABASE=url.database,
    )

    assert run("relay", "migrate").code == 0
    assert run("relay", "status").code == 0
    refused = run("relay", "check", PGHOST="127.0.0.2")
    assert refused.code == 2
    assert refused.err.endswith(
        "error: MQ_DATABASE_URL: beyond loopback (the host is that of PGHOST) add "
        "?sslmode=verify-full, or set MQ_ALLOW_INSECURE=true\n"
    )
