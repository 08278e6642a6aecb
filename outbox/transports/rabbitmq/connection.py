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
from outbox.transports.base import ConnectionCounter

CONNECT_SECONDS = 10.0
"""For all addresses together: who publishes has no more time, and one may not use it all up."""
LEAST_CONNECT_SECONDS = 2.0
CLOSE_SECONDS = 5.0
"""Every call at shutdown has a deadline: a silent broker must not hold the process."""

# The event loop itself does not keep tasks alive.
_CLOSING: set["asyncio.Task[None]"] = set()

CONNECTION_ERRORS = (OSError, TimeoutError, aiormq.AMQPError, RuntimeError, StopAsyncIteration)
"""
What a lost connection raises.

RuntimeError is how aio-pika says that it was closed before, and StopAsyncIteration how aiormq says
that the peer has hung up before it was asked anything.
"""


def heartbeat_to_ask_for(noticed_within: int) -> int:
    """
    The heartbeat for which a dead peer is noticed within three times *noticed_within* seconds.

    aiormq takes a peer for dead once it has heard nothing for 3 * (heartbeat + 1) seconds, and
    looks every half heartbeat: 3.5 * heartbeat + 3 at worst. Below 3 there is none that short.
    """
    return max(1, (6 * noticed_within - 6) // 7)


async def connect(
    urls: Sequence[URL],
    *,
    name: str,
    connections: ConnectionCounter,
    kind: type[aio_pika.Connection] = aio_pika.Connection,
) -> AbstractConnection:
    """
    Connect to the first of *urls* that answers, under a *name* that the broker shows.

    Each address gets an equal share of the time that is left. *connections* counts the connection
    until it is closed or lost.
    Raises BrokerUnavailable if no address answers.
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
                    ssl_context=_verifying(url),
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
    """Close *connection*, in whatever state it is."""
    await asyncio.wait({begin_to_close(connection)}, timeout=CLOSE_SECONDS)


def begin_to_close(connection: AbstractConnection) -> "asyncio.Task[None]":
    """
    Close *connection*, for those who have no time to wait for it.

    In a task of its own, because aio-pika does not let go of a caller who is cancelled.
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
    Turn errors of the connection into BrokerUnavailable, which says *problem*.

    Their texts are dropped: they may quote the URL with its password. A cancellation that is not
    meant for this task comes from aiormq, when the peer has fallen silent.
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
        # aiormq rejects what waits, and has no reason to tell, when a connection closes that has
        # only just been made.
        if type(error) is not Exception:
            raise
        raise BrokerUnavailable(f"{problem}: for no reason given") from None


def _verifying(url: URL) -> ssl.SSLContext | None:
    """
    A context that verifies the broker at *url*, with the files that its query names.

    None for plaintext, and for `no_verify_ssl`, which the settings allow only when told to.
    """
    query = url.query
    if url.scheme != "amqps" or query.get("no_verify_ssl", "0") != "0":
        return None
    context = ssl.create_default_context(cafile=query.get("cafile"), capath=query.get("capath"))
    if certificate := query.get("certfile"):
        context.load_cert_chain(certificate, query.get("keyfile"))
    return context
