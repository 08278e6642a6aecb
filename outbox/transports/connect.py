"""
Choosing the adapters by the scheme of `MQ_BROKER_URL`; only those of that broker are imported.
"""

from pathlib import Path

from outbox import redis_urls
from outbox.extras import packages_of
from outbox.settings import SharedSettings
from outbox.transports.base import ConnectionCounter, NoCounter, Transport
from outbox.transports.management import Management


def transport(
    settings: SharedSettings, *, name: str, connections: ConnectionCounter | None = None
) -> Transport:
    """
    Return the transport of the configured broker.

    The broker shows *name* for its connections; *connections* counts those that are open.
    """
    connections = connections or NoCounter()
    first = settings.brokers[0]
    if first.scheme == "sqlite":
        with packages_of("MQ_BROKER_URL: SQLite", extra="sqlite"):
            from outbox.transports.sqlite.transport import SqliteTransport  # noqa: PLC0415
        # As in SQLAlchemy: three slashes begin a relative path, four an absolute one.
        return SqliteTransport(Path(first.path[1:]), connections=connections)
    if first.scheme in redis_urls.SCHEMES:
        with packages_of("MQ_BROKER_URL: Redis", extra="redis"):
            from outbox.transports.redis.transport import RedisTransport  # noqa: PLC0415
        return RedisTransport(
            settings.brokers,
            name=name,
            connections=connections,
            replicas=settings.redis_replicas,
        )

    with packages_of("MQ_BROKER_URL: RabbitMQ", extra="rabbitmq"):
        from outbox.transports.rabbitmq.transport import RabbitMQTransport  # noqa: PLC0415
    return RabbitMQTransport(
        settings.brokers,
        heartbeat_seconds=settings.heartbeat_seconds,
        name=name,
        connections=connections,
        publish_method=settings.publish_method,
        delivery_method=settings.delivery_method,
    )


def management(settings: SharedSettings) -> Management | None:
    """Return the way to ask the configured broker questions; None without MQ_MANAGEMENT_URL."""
    first = settings.brokers[0]
    if first.scheme == "sqlite":
        with packages_of("MQ_BROKER_URL: SQLite", extra="sqlite"):
            from outbox.transports.sqlite.management import SqliteManagement  # noqa: PLC0415
        return SqliteManagement(Path(first.path[1:]))
    if first.scheme in redis_urls.SCHEMES:
        with packages_of("MQ_BROKER_URL: Redis", extra="redis"):
            from outbox.transports.redis.management import RedisManagement  # noqa: PLC0415
        return RedisManagement(settings.brokers, name="management")
    if (url := settings.management) is None:
        return None

    with packages_of("MQ_MANAGEMENT_URL: RabbitMQ", extra="rabbitmq"):
        from outbox.transports.rabbitmq.management import RabbitMQManagement  # noqa: PLC0415
    return RabbitMQManagement(url, vhost=first.path[1:] or "/")
