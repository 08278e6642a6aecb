"""
An installation with the roles and users of `deploy/`, on the servers of the tests.

It follows docs/how-to/deploy.md step by step, with the files of `deploy/` and our commands. Names
of roles, users, database and virtual host are chance, so that runs may share the servers.
"""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from yarl import URL

from tests.support.commands import CommandLine, Ended
from tests.support.pages import REPOSITORY
from tests.support.programs import program
from tests.support.roles import execute
from tests.support.servers import Management, PostgresServer, RabbitmqServer

DEPLOY = REPOSITORY / "deploy"
ROLES_SCRIPT = DEPLOY / "postgres" / "roles.sql"
DEFINITIONS = DEPLOY / "rabbitmq" / "definitions.json"
HASHES_SCRIPT = DEPLOY / "rabbitmq" / "password_hashes.py"
SCHEMA = "mq"
TARGET = "examples.etl:etl"
ROLES = (
    "owner",
    "producer",
    "relay",
    "consumer",
    "operator",
    "key_operator",
    "eraser",
    "auditor",
    "monitoring",
)
USERS = ("topology", "relay", "consumer_etl", "operator", "monitoring")


@dataclass(frozen=True, kw_only=True)
class Installation:
    """
    One database and one virtual host, and who may do what in them.

    Args:
        administration: The superuser's URL of the database.
        vhost: The URL of the virtual host, as an administrator.
        prefix: The begin of the names of all roles and users, in place of `outbox_`.

    """

    administration: str
    vhost: str
    management: str
    directory: Path
    prefix: str = field(default_factory=lambda: f"t{secrets.token_hex(5)}_")
    password: str = field(default_factory=lambda: secrets.token_hex(8), repr=False)

    @property
    def vhost_name(self) -> str:
        return URL(self.vhost).path.removeprefix("/")

    def database(self, role: str) -> str:
        """The URL with which *role* logs in to the database."""
        url = make_url(self.administration)
        url = url.set(drivername="postgresql", username=self.prefix + role, password=self.password)
        return url.render_as_string(hide_password=False)

    def broker(self, user: str) -> str:
        """The URL with which *user* logs in to the broker."""
        return str(URL(self.vhost).with_user(self.prefix + user).with_password(self.password))

    def api(self, user: str) -> str:
        """The URL of the management API for *user*."""
        url = URL(self.management).with_user(self.prefix + user)
        return str(url.with_password(self.password))

    def settings(self, role: str, user: str | None = None) -> dict[str, str]:
        """The settings of a process, or a command, of *role*."""
        return {
            "MQ_DATABASE_URL": self.database(role),
            "MQ_DATABASE_SCHEMA": SCHEMA,
            "MQ_BROKER_URL": self.broker(user or role),
            "MQ_DECLARE_TOPOLOGY": "false",
            "MQ_METRICS_PORT": "0",
            "MQ_LOG_FORMAT": "json",
        }

    async def run(self, role: str, *command: str, user: str | None = None, **more: str) -> Ended:
        """Run a command as *role* of the database and *user* of the broker."""
        settings = {**self.settings(role, user), **more}
        return await CommandLine(self.directory, **settings).run(*command)

    async def migrate(self, by: str = "owner") -> Ended:
        """Migrate as the role *by*."""
        settings = {"MQ_DATABASE_URL": self.database(by), "MQ_DATABASE_SCHEMA": SCHEMA}
        return await CommandLine(self.directory, **settings).run("relay", "migrate")

    async def apply_roles(self, *variables: str, by: str | None = None) -> None:
        """Run the script for Postgres as a superuser, or by the role of the URL *by*."""
        words = [f"schema={SCHEMA}", f"prefix={self.prefix}", *variables]
        await psql(by or self.administration, ROLES_SCRIPT, *words)

    def definitions(self) -> dict[str, Any]:
        """The definitions for RabbitMQ with the names of this installation, and with hashes."""
        passwords = self.directory / "passwords"
        passwords.mkdir(exist_ok=True)
        for user in USERS:
            (passwords / f"{self.prefix}{user}").write_text(f"{self.password}\n")
        done = subprocess.run(
            [sys.executable, HASHES_SCRIPT, passwords],
            input=json.dumps(self.renamed(json.loads(DEFINITIONS.read_text()))),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def renamed(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """Return *definitions* with the users and the virtual host of this installation."""
        for vhost in definitions["vhosts"]:
            vhost["name"] = self.vhost_name
        for user in definitions["users"]:
            user["name"] = user["name"].replace("outbox_", self.prefix)
        for kind in ("permissions", "topic_permissions", "exchanges", "policies"):
            for entry in definitions[kind]:
                entry["vhost"] = self.vhost_name
                if "user" in entry:
                    entry["user"] = entry["user"].replace("outbox_", self.prefix)
        return definitions


@asynccontextmanager
async def installed(
    postgres: PostgresServer, rabbitmq: RabbitmqServer, directory: Path
) -> AsyncIterator[Installation]:
    """Lend an installation that is ready for its first event."""
    database = await postgres.create_database()
    made = Installation(
        administration=postgres.url(database),
        vhost=rabbitmq.url(f"test-{secrets.token_hex(8)}"),
        management=rabbitmq.management_url,
        directory=directory,
    )
    try:
        await _create_database_objects(made)
        await rabbitmq.http.request("POST", "definitions", body=made.definitions())
        topology = CommandLine(directory, MQ_BROKER_URL=made.broker("topology"))
        for command in (("relay", "topology"), ("consumer", "topology", TARGET)):
            _good(await topology.run(*command))
        yield made
    finally:
        await postgres.drop_database(database)
        await postgres.execute(
            ";".join(f"DROP ROLE IF EXISTS {made.prefix}{role}" for role in ROLES)
        )
        await _delete_broker_objects(rabbitmq.http, made)


async def _create_database_objects(made: Installation) -> None:
    await made.apply_roles()
    for role in ROLES:
        await execute(
            made.administration,
            f"ALTER ROLE {made.prefix}{role} LOGIN PASSWORD '{made.password}'",
        )
    _good(await made.migrate())
    await made.apply_roles()
    # What the migrations of an application do for its own tables.
    await execute(
        made.administration,
        "CREATE TABLE uploads (message_id uuid PRIMARY KEY, object_key text NOT NULL,"
        " record_type text NOT NULL, record_count integer)",
        f"GRANT INSERT ON uploads TO {made.prefix}consumer",
    )


async def _delete_broker_objects(management: Management, made: Installation) -> None:
    await management.delete_vhost(made.vhost_name)
    for user in USERS:
        await management.request("DELETE", "users", made.prefix + user)


async def psql(url: str, script: Path, *variables: str) -> None:
    """Run *script* on the database of *url*; raises AssertionError with what psql says."""
    arguments = [word for variable in variables for word in ("--set", variable)]
    uri = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    done = await asyncio.to_thread(
        subprocess.run,
        [
            program("psql", package="postgresql-client"),
            *("--no-psqlrc", "--dbname", uri, *arguments, "--file", script),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def _good(ended: Ended) -> None:
    assert ended.code == 0, ended.err
