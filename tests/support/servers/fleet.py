"""
The servers of one test run.

Invariants:

- A server is launched once, at the first request for it.
- `close` ends all launched servers, even if no test has used them.
"""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.servers.binaries import (
    POSTGRES_PROGRAMS,
    RABBITMQ_PROGRAMS,
    REDIS_PROGRAMS,
    postgres_binaries,
    rabbitmq_binaries,
    redis_binaries,
)
from tests.support.servers.choice import Product
from tests.support.servers.containers import ContainerInstance
from tests.support.servers.instance import GivenInstance
from tests.support.servers.isolation import DISK
from tests.support.servers.management import QUICK_FIGURES
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.private_postgres import PrivatePostgres
from tests.support.servers.private_rabbitmq import PrivateRabbitmq
from tests.support.servers.private_redis import DATABASES, PrivateRedis
from tests.support.servers.rabbitmq import RabbitmqServer
from tests.support.servers.redis import RedisServer
from tests.support.servers.sources import Sources

DATABASE_VARIABLE = "OUTBOX_TEST_DATABASE_URL"
BROKER_VARIABLE = "OUTBOX_TEST_BROKER_URL"
MANAGEMENT_VARIABLE = "OUTBOX_TEST_BROKER_MANAGEMENT_URL"
REDIS_VARIABLE = "OUTBOX_TEST_REDIS_URL"
USER = "tests"


class Fleet:
    """
    Postgres, RabbitMQ and Redis, each launched when first asked for.

    Private servers have their data in *parent*.
    """

    def __init__(self, parent: Path = DISK) -> None:
        self._parent = parent
        self._postgres: PostgresServer | None = None
        self._rabbitmq: RabbitmqServer | None = None
        self._redis: RedisServer | None = None

    def postgres(self) -> PostgresServer:
        """Return the Postgres server, which may not answer yet."""
        if self._postgres is None:
            self._postgres = POSTGRES.launched(self._parent)
        return self._postgres

    def rabbitmq(self) -> RabbitmqServer:
        """Return the RabbitMQ server, which may not answer yet."""
        if self._rabbitmq is None:
            self._rabbitmq = RABBITMQ.launched(self._parent)
        return self._rabbitmq

    def redis(self) -> RedisServer:
        """Return the Redis server, which may not answer yet."""
        if self._redis is None:
            self._redis = REDIS.launched(self._parent)
        return self._redis

    def close(self) -> None:
        """End all servers."""
        for server in (self._postgres, self._rabbitmq, self._redis):
            if server is not None:
                server.close()


def _given_postgres(url: str) -> PostgresServer:
    return PostgresServer(url, GivenInstance(DATABASE_VARIABLE))


def _private_postgres(binaries: Path, parent: Path) -> PostgresServer:
    instance = PrivatePostgres(binaries, parent=parent)
    return PostgresServer(instance.url, instance)


def _contained_postgres(image: str) -> PostgresServer:
    password = secrets.token_hex(16)
    instance = ContainerInstance(
        image,
        ports={5432: free_port()},
        env={"POSTGRES_USER": USER, "POSTGRES_PASSWORD": password},
        command=["-c", "max_connections=200", "-c", "max_prepared_transactions=10"],
    )
    instance.launch()
    address = instance.address(5432)
    return PostgresServer(f"postgresql://{USER}:{password}@{address}/postgres", instance)


def _given_rabbitmq(url: str) -> RabbitmqServer:
    parts = urlsplit(url)
    account, at, _ = parts.netloc.rpartition("@")
    usual = f"http://{account}{at}{parts.hostname}:15672"
    management_url = os.environ.get(MANAGEMENT_VARIABLE, usual)
    return RabbitmqServer(url, management_url, GivenInstance(BROKER_VARIABLE))


def _private_rabbitmq(binaries: Path, parent: Path) -> RabbitmqServer:
    instance = PrivateRabbitmq(binaries, parent=parent)
    return RabbitmqServer(
        instance.url, instance.management_url, instance, metrics_port=instance.metrics_port
    )


def _contained_rabbitmq(image: str) -> RabbitmqServer:
    password = secrets.token_hex(16)
    instance = ContainerInstance(
        image,
        ports={5672: free_port(), 15672: free_port(), 15692: free_port()},
        env={
            "RABBITMQ_DEFAULT_USER": USER,
            "RABBITMQ_DEFAULT_PASS": password,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": QUICK_FIGURES,
        },
    )
    instance.launch()
    broker, management = instance.address(5672), instance.address(15672)
    return RabbitmqServer(
        f"amqp://{USER}:{password}@{broker}",
        f"http://{USER}:{password}@{management}",
        instance,
        metrics_port=int(instance.address(15692).rpartition(":")[2]),
    )


def _given_redis(url: str) -> RedisServer:
    return RedisServer(url, GivenInstance(REDIS_VARIABLE))


def _private_redis(binaries: Path, parent: Path) -> RedisServer:
    instance = PrivateRedis(binaries, parent=parent)
    return RedisServer(instance.url, instance)


def _contained_redis(image: str) -> RedisServer:
    password = secrets.token_hex(16)
    settings = {"requirepass": password, "databases": DATABASES, "appendfsync": "always"}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    instance = ContainerInstance(
        image,
        ports={6379: free_port()},
        env={},
        command=["redis-server", "--appendonly", "yes", *words],
    )
    instance.launch()
    return RedisServer(f"redis://default:{password}@{instance.address(6379)}", instance)


POSTGRES = Sources(
    product=Product(
        name="Postgres",
        variable=DATABASE_VARIABLE,
        directory_variable="OUTBOX_TEST_POSTGRES_BIN",
        programs=POSTGRES_PROGRAMS,
        image="postgres:17",
        package="postgresql",
        binaries=postgres_binaries,
    ),
    given=_given_postgres,
    contained=_contained_postgres,
    private=_private_postgres,
)
RABBITMQ = Sources(
    product=Product(
        name="RabbitMQ",
        variable=BROKER_VARIABLE,
        directory_variable="OUTBOX_TEST_RABBITMQ_BIN",
        programs=RABBITMQ_PROGRAMS,
        image="rabbitmq:4-management",
        package="rabbitmq-server",
        binaries=rabbitmq_binaries,
    ),
    given=_given_rabbitmq,
    contained=_contained_rabbitmq,
    private=_private_rabbitmq,
)
REDIS = Sources(
    product=Product(
        name="Redis",
        variable=REDIS_VARIABLE,
        directory_variable="OUTBOX_TEST_REDIS_BIN",
        programs=REDIS_PROGRAMS,
        any_program=True,
        image="redis:8",
        package="redis-server",
        binaries=redis_binaries,
    ),
    given=_given_redis,
    contained=_contained_redis,
    private=_private_redis,
)
