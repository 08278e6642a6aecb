"""
Faults of processes and of their connections, each an async context manager.

Each records its beginning and its end. The end may come after the block: when a process that was
ended is ready again.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

from tests.reliability.consumers import BLOCK, SLEEP
from tests.reliability.fault_run import FaultRun
from tests.reliability.history import Leftover
from tests.reliability.roles import ORDERED, RELAY
from tests.reliability.supervisor import SupervisedProcess
from tests.support.breakpoints import Breakpoint, BreakpointProxy
from tests.support.eventually import eventually
from tests.support.network_conditions import DROP_ALL, NetworkConditions, Side
from tests.support.wire_protocols import ACK, COMMIT, Matcher, statement

Fault: TypeAlias = AbstractAsyncContextManager[None]

SLOW = NetworkConditions(delay=timedelta(milliseconds=50), jitter=timedelta(milliseconds=150))
LOW_BANDWIDTH = NetworkConditions(bytes_per_second=20_000)
FRAGMENTED = NetworkConditions(piece_bytes=7)

EFFECT = statement("INSERT INTO effects")
EVENT = statement("INSERT INTO outbox (")
SETTLEMENT = statement("DELETE FROM outbox WHERE")
_KINDS = {RELAY: "relay", ORDERED: "ordered consumer"}
TIMEOUT_SECONDS = 15.0


class FaultNotInjectedError(Exception):
    """The event that triggers a fault did not happen, so the fault was not injected."""


@asynccontextmanager
async def killed(run: FaultRun, process: SupervisedProcess) -> AsyncIterator[None]:
    """Kill *process* (SIGKILL); the supervisor restarts it."""
    async with run.record_fault(f"{_kind(process)} killed"):
        process.kill()
        yield
        await process.wait_until_ready()


@asynccontextmanager
async def terminated(run: FaultRun, process: SupervisedProcess) -> AsyncIterator[None]:
    """Terminate *process* (SIGTERM), and start it again after the block."""
    async with run.record_fault(f"{_kind(process)} terminated"):
        if status := await process.terminate():
            run.history.write(
                Leftover(time.time(), f"{process.name} asked to end ended with status {status}", 1)
            )
        yield
        process.start()
        await process.wait_until_ready()


@asynccontextmanager
async def frozen(run: FaultRun, process: SupervisedProcess) -> AsyncIterator[None]:
    """Freeze *process* (SIGSTOP) during the block; its connections stay open."""
    async with run.record_fault(f"{_kind(process)} frozen"):
        process.freeze()
        try:
            yield
        finally:
            process.thaw()


@asynccontextmanager
async def reset(run: FaultRun, proxy: BreakpointProxy) -> AsyncIterator[None]:
    """Reset all connections through *proxy* (RST); processes can reconnect at once."""
    async with run.record_fault(f"{run.proxies.name(proxy)}: reset"):
        proxy.reset()
        yield


@asynccontextmanager
async def cut(run: FaultRun, proxy: BreakpointProxy) -> AsyncIterator[None]:
    """Allow no connection through *proxy* during the block."""
    async with run.record_fault(f"{run.proxies.name(proxy)}: cut"):
        await proxy.cut()
        try:
            yield
        finally:
            await proxy.restore()


@asynccontextmanager
async def under(
    run: FaultRun, conditions: NetworkConditions, *proxies: BreakpointProxy, called: str
) -> AsyncIterator[None]:
    """Apply *conditions* to each of *proxies* during the block; *called* describes the fault."""
    names = ", ".join(run.proxies.name(proxy) for proxy in proxies)
    async with run.record_fault(f"{names}: {called}"), AsyncExitStack() as stack:
        for proxy in proxies:
            await stack.enter_async_context(proxy.under(conditions))
        yield


def half_open(run: FaultRun, proxy: BreakpointProxy) -> Fault:
    """Drop all data through *proxy* in both directions, without closing connections."""
    return under(run, DROP_ALL, proxy, called="half-open")


def one_way(run: FaultRun, proxy: BreakpointProxy, *, silent: Side) -> Fault:
    """Drop the data of one side of *proxy*."""
    conditions = NetworkConditions(silent=frozenset({silent}))
    return under(run, conditions, proxy, called=f"nothing of the {silent.value} arrives")


def slow(run: FaultRun, *proxies: BreakpointProxy) -> Fault:
    """Add latency and jitter."""
    return under(run, SLOW, *proxies, called="slow")


def low_bandwidth(run: FaultRun, *proxies: BreakpointProxy) -> Fault:
    """Limit the bandwidth to a few kilobytes a second."""
    return under(run, LOW_BANDWIDTH, *proxies, called="narrow")


def fragmented(run: FaultRun, *proxies: BreakpointProxy) -> Fault:
    """Deliver the data in pieces of a few bytes."""
    return under(run, FRAGMENTED, *proxies, called="fragmented")


@asynccontextmanager
async def confirms_lost(run: FaultRun) -> AsyncIterator[None]:
    """Drop every confirm on its way to a relay."""
    async with run.record_fault("confirms lost"):
        with run.proxies.relay_broker.dropping(Side.SERVER, ACK):
            yield


@asynccontextmanager
async def acks_lost(run: FaultRun) -> AsyncIterator[None]:
    """Drop every ack of a consumer on its way to the broker; reset its connection afterwards."""
    async with run.record_fault("acknowledgements lost"):
        with run.proxies.consumer_broker.dropping(Side.CLIENT, ACK):
            yield


@asynccontextmanager
async def commit_unanswered(run: FaultRun, proxy: BreakpointProxy) -> AsyncIterator[None]:
    """Cut a connection through *proxy* after the database got a COMMIT, before its reply."""
    matchers: dict[BreakpointProxy, Matcher] = {
        run.proxies.relay_database: SETTLEMENT,
        run.proxies.consumer_database: EFFECT,
        run.proxies.producer_database: EVENT,
    }
    breakpoint_ = proxy.after(matchers[proxy], COMMIT)
    try:
        await _wait_until_hit(breakpoint_)
        async with run.record_fault(f"{run.proxies.name(proxy)}: COMMIT without an answer"):
            breakpoint_.cut()
            yield
    finally:
        proxy.forget(breakpoint_)


@asynccontextmanager
async def confirm_reset(run: FaultRun) -> AsyncIterator[None]:
    """Reset a relay's connections when the broker has just sent a confirm."""
    proxy = run.proxies.relay_broker
    breakpoint_ = proxy.before_reply(ACK)
    try:
        await _wait_until_hit(breakpoint_)
        async with run.record_fault("relays and RabbitMQ: reset before a confirm"):
            proxy.reset()
            yield
    finally:
        proxy.forget(breakpoint_)


@asynccontextmanager
async def loop_blocked(run: FaultRun, seconds: float) -> AsyncIterator[None]:
    """Make a handler block the event loop of its process for *seconds*."""
    await _disturb(run, BLOCK, seconds)
    async with run.record_fault("event loop blocked by a handler"):
        yield


@asynccontextmanager
async def handler_slow(run: FaultRun, seconds: float) -> AsyncIterator[None]:
    """Make a handler sleep for *seconds*."""
    await _disturb(run, SLEEP, seconds)
    async with run.record_fault("handler lingers"):
        yield


async def _wait_until_hit(breakpoint_: Breakpoint) -> None:
    try:
        await breakpoint_.wait_until_hit(within=TIMEOUT_SECONDS)
    except AssertionError:
        raise FaultNotInjectedError from None


async def _disturb(run: FaultRun, what: str, seconds: float) -> None:
    """Make one handler do *what* for *seconds*; returns when it has begun."""
    order, draft = run.directory / what, run.directory / f"{what}.draft"
    draft.write_text(str(seconds))
    draft.rename(order)
    try:
        await eventually(lambda: not order.exists(), within=TIMEOUT_SECONDS)
    except AssertionError:
        order.unlink(missing_ok=True)
        raise FaultNotInjectedError from None


def _kind(process: SupervisedProcess) -> str:
    return _KINDS.get(process.role, "consumer")
