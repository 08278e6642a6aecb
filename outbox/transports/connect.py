"""
The transport that the scheme of `MQ_BROKER_URL` names.
"""

from pathlib import Path

from outbox.settings import SharedSettings
from outbox.transports.base import Transport
from outbox.transports.rabbitmq import RabbitMQTransport
from outbox.transports.sqlite import SqliteTransport


def transport(settings: SharedSettings, *, name: str) -> Transport:
    """The configured broker; *name* is what the broker shows as the connection's name."""
    first = settings.brokers[0]
    if first.scheme == "sqlite":
        # As in SQLAlchemy: three slashes are a relative path, four an absolute one.
        return SqliteTransport(Path(first.path[1:]))
    return RabbitMQTransport(
        settings.brokers, heartbeat_seconds=settings.heartbeat_seconds, name=name
    )
