"""
Connecting to RabbitMQ, and recognising the errors of a lost connection.
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
from outbox.transports.base import ConnectionCounter

CONNECT_SECONDS = 10.0
"""For all addresses together, because a publish has no more time; each gets a share."""
LEAST_CONNECT_SECONDS = 2.0
CLOSE_SECONDS = 5.0
"""Deadline of each call at shutdown: a silent broker must not block the process."""

# The event loop holds only weak references to tasks.
_CLOSING: set["asyncio.Task[None]"] = set()

CONNECTION_ERRORS = (OSError, TimeoutError, aiormq.AMQPError, RuntimeError, StopAsyncIteration)
"""
Errors of a lost connection.

aio-pika raises RuntimeError on a closed connection; aiormq raises StopAsyncIteration if the peer
closes the connection before the handshake.
"""


def heartbeat_to_request(detect_within: int) -> int:
    """
    Return the heartbeat that detects a dead peer within three times *detect_within* seconds.

    aiormq takes a peer for dead after 3 * (heartbeat + 1) seconds without a frame, and checks
    every half heartbeat: 3.5 * heartbeat + 3 at worst. For less than 3 seconds no heartbeat is
    that short.
    """
    return max(1, (6 * detect_within - 6) // 7)


async def connect(
    urls: Sequence[URL],
    *,
    name: str,
    connections: ConnectionCounter,
    kind: type[aio_pika.Connection] = aio_pika.Connection,
) -> AbstractConnection:
    """
    Connect to the first of *urls* that confirms, under a *name* that the broker shows.

    Each address gets an equal share of the time that is left. *connections* counts the connection
    until it is closed or lost.
    Raises BrokerUnavailable if no address confirms.
    """
    problem = BrokerUnavailable("no address")
    now = asyncio.get_running_loop().time
    deadline = now() + CONNECT_SECONDS
    for tried, url in enumerate(urls):
        share = (deadline - now()) / (len(urls) - tried)
        try:
            with connection_errors("cannot connect to the broker"):
                connection = await aio_pika.connect(
                    url,
                    timeout=max(share, LEAST_CONNECT_SECONDS),
                    client_properties={"connection_name": name},
                    ssl_context=_tls_context(url),
                    connection_class=kind,
                )
        except BrokerUnavailable as error:
            problem = error
        else:
            _count(connection, connections)
            return connection
    raise problem


def _count(connection: AbstractConnection, connections: ConnectionCounter) -> None:
    if (transport := connection.transport) is None:
        return
    connections.inc()
    # aiormq ends this future once, whichever side closes; a callback that is late is still called.
    transport.connection.closing.add_done_callback(lambda _closed: connections.dec())


async def close(connection: AbstractConnection) -> None:
    """Close *connection*, which may be in any state."""
    await asyncio.wait({start_closing(connection)}, timeout=CLOSE_SECONDS)


def start_closing(connection: AbstractConnection) -> "asyncio.Task[None]":
    """
    Start closing *connection*, and return the task.

    It is a separate task, because aio-pika keeps a caller waiting that is cancelled.
    """
    task = asyncio.ensure_future(_close(connection))
    _CLOSING.add(task)
    task.add_done_callback(_CLOSING.discard)
    return task


async def _close(connection: AbstractConnection) -> None:
    with suppress(BrokerUnavailable), connection_errors():
        await connection.close()


@contextmanager
def connection_errors(problem: str = "the connection was lost") -> Iterator[None]:
    """
    Turn errors of the connection into BrokerUnavailable, whose text begins with *problem*.

    The texts of the errors are dropped, because they may quote the URL with its password. If this
    task was not cancelled, a CancelledError comes from aiormq, which raises it for a silent peer.
    """
    try:
        yield
    except CONNECTION_ERRORS as error:
        raise BrokerUnavailable(f"{problem}: {type(error).__name__}") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerUnavailable(f"{problem}: the peer is silent") from None
    except Exception as error:
        # aiormq raises a bare Exception to waiting calls when a new connection closes at once.
        if type(error) is not Exception:
            raise
        raise BrokerUnavailable(f"{problem}: for no reason given") from None


def _tls_context(url: URL) -> ssl.SSLContext | None:
    """
    Return a context that verifies the broker at *url*, with the files that its query names.

    None for plaintext and for `no_verify_ssl`, which the settings refuse without
    MQ_ALLOW_INSECURE.
    """
    query = url.query
    if url.scheme != "amqps" or query.get("no_verify_ssl", "0") != "0":
        return None
    context = ssl.create_default_context(cafile=query.get("cafile"), capath=query.get("capath"))
    if certificate := query.get("certfile"):
        context.load_cert_chain(certificate, query.get("keyfile"))
    return context
