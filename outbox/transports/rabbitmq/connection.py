"""
Connecting to RabbitMQ, and recognising the errors of a lost connection.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.network_errors import kind_of
from outbox.transports.base import ConnectionCounter
from outbox.transports.rabbitmq.connect_errors import address, reason_of_failure
from outbox.transports.tls import context_of

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
    problems: list[BrokerUnavailable] = []
    now = asyncio.get_running_loop().time
    deadline = now() + CONNECT_SECONDS
    for tried, url in enumerate(urls):
        share = (deadline - now()) / (len(urls) - tried)
        try:
            with connection_errors(f"to {address(url)}", partial(reason_of_failure, url=url)):
                connection = await _open(
                    url, name=name, within=max(share, LEAST_CONNECT_SECONDS), kind=kind
                )
        except BrokerUnavailable as error:
            problems.append(error)
        else:
            _count(connection, connections)
            return connection
    raise BrokerUnavailable(
        f"MQ_BROKER_URL: cannot connect {'; '.join(map(str, problems))}",
        refused=all(problem.refused for problem in problems),
    )


async def _open(
    url: URL, *, name: str, within: float, kind: type[aio_pika.Connection]
) -> AbstractConnection:
    """Connect to *url* in *within* seconds; raises the errors of the library."""
    made: list[aio_pika.Connection] = []

    def make(*arguments: Any, **options: Any) -> aio_pika.Connection:
        made.append(kind(*arguments, **options))
        return made[-1]

    try:
        return await aio_pika.connect(
            url,
            timeout=within,
            client_properties={"connection_name": name},
            ssl_context=context_of(url, address=address(url)),
            connection_class=make,
        )
    except BaseException:
        # Else its finalizer starts a task, in a loop that may have ended (aio-pika 10.2.1).
        for connection in made:
            await connection.close()
        raise


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
    """Close *connection*; ends at once when it is cancelled, as at the end of the process."""
    with suppress(BrokerUnavailable), connection_errors():
        # aio-pika's own close, once cancelled, still waits for a silent peer (aio-pika 10.2.1,
        # findings/aio-pika-cancelled-close.sh), so only call it when it has nothing to wait for.
        # Without it a finalizer would try to close the connection, perhaps after the loop.
        if (transport := connection.transport) is not None:
            await transport.connection.close(aiormq.exceptions.ConnectionClosed)
            await transport.close_callback.finished.wait()
        await connection.close()


def _class_of(error: BaseException) -> tuple[str, bool]:
    return kind_of(error) or type(error).__name__, False


@contextmanager
def connection_errors(
    problem: str = "the connection was lost",
    reason_of: Callable[[BaseException], tuple[str, bool]] = _class_of,
) -> Iterator[None]:
    """
    Turn errors of the connection into BrokerUnavailable, whose text begins with *problem*.

    *reason_of* returns the rest of the text, and whether the broker refused the login. The texts
    of the errors are dropped, because they may quote the URL with its password. If this task was
    not cancelled, a CancelledError comes from aiormq, which raises it for a silent peer.
    """
    try:
        yield
    except CONNECTION_ERRORS as error:
        reason, refused = reason_of(error)
        raise BrokerUnavailable(f"{problem}: {reason}", refused=refused) from None
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
