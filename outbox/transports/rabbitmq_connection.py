"""
Connecting to RabbitMQ, and telling a lost connection from everything else.
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from yarl import URL

from outbox.errors import BrokerUnavailable

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
"""Every call at shutdown has a deadline: a silent broker must not hold the process."""

CONNECTION_ERRORS = (OSError, TimeoutError, aiormq.AMQPError, RuntimeError)
"""What a lost connection raises; RuntimeError is how aio-pika says that it was closed before."""


async def connect(urls: Sequence[URL], *, name: str) -> AbstractConnection:
    """
    A new connection to the first of *urls* that answers, shown by the broker as *name*.

    Raises BrokerUnavailable if none does.
    """
    problem = "no address"
    for url in urls:
        try:
            return await aio_pika.connect(
                url,
                timeout=CONNECT_SECONDS,
                client_properties={"connection_name": name},
                ssl_context=ssl.create_default_context() if _verified(url) else None,
            )
        except CONNECTION_ERRORS as error:
            # Their texts may quote the URL with its password.
            problem = type(error).__name__
        except asyncio.CancelledError:
            raise_if_cancelled()
            problem = "ConnectionLost"
    raise BrokerUnavailable(f"cannot connect to the broker: {problem}")


async def close(connection: AbstractConnection) -> None:
    """Close *connection*, in whatever state it is."""
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn errors of the connection into BrokerUnavailable."""
    try:
        yield
    except CONNECTION_ERRORS:
        raise BrokerUnavailable("the connection was lost") from None
    except asyncio.CancelledError:
        raise_if_cancelled()
        raise BrokerUnavailable("the connection was lost") from None


def raise_if_cancelled() -> None:
    """Raise again a cancellation that is meant for this task; others come from a dead peer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _verified(url: URL) -> bool:
    return (
        url.scheme == "amqps"
        and not url.query.get("cafile")
        and (url.query.get("no_verify_ssl", "0") in {"0", "false"})
    )
