"""
What can happen to processes and their ways: faults, each for the block that it is used in.

Each writes down when it strikes and when it is healed, which may be later than the end of its
block: when a process works again that was ended.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

from tests.reliability.consumers import BLOCK, LINGER
from tests.reliability.fault_run import Course
from tests.reliability.history import Residue
from tests.reliability.roles import ORDERED, RELAY
from tests.reliability.supervisor import Member
from tests.support.breakpoints import Breakpoint, BreakpointProxy
from tests.support.eventually import eventually
from tests.support.network_conditions import DROP_ALL, NetworkConditions, Side
from tests.support.wire_protocols import ACK, COMMIT, Sign, statement

Fault: TypeAlias = AbstractAsyncContextManager[None]

SLOW = NetworkConditions(delay=timedelta(milliseconds=50), jitter=timedelta(milliseconds=150))
NARROW = NetworkConditions(bytes_per_second=20_000)
TORN = NetworkConditions(piece_bytes=7)

EFFECT = statement("INSERT INTO effects")
EVENT = statement("INSERT INTO outbox")
SETTLEMENT = statement("DELETE FROM outbox")
_KINDS = {RELAY: "relay", ORDERED: "ordered consumer"}
PATIENCE_SECONDS = 15.0


class TooQuietError(Exception):
    """What a fault waits for did not happen, so that it did not strike."""


@asynccontextmanager
async def killed(course: Course, member: Member) -> AsyncIterator[None]:
    """*member* is killed, and started again by its supervisor."""
    async with course.strike(f"{_kind(member)} killed"):
        member.kill()
        yield
        await member.works()


@asynccontextmanager
async def terminated(course: Course, member: Member) -> AsyncIterator[None]:
    """*member* is asked to end, and started again after the block."""
    async with course.strike(f"{_kind(member)} terminated"):
        if status := await member.terminate():
            course.chronicle.write(
                Residue(time.time(), f"{member.name} asked to end ended with status {status}", 1)
            )
        yield
        member.start()
        await member.works()


@asynccontextmanager
async def frozen(course: Course, member: Member) -> AsyncIterator[None]:
    """*member* does nothing for the block, while its connections stay open."""
    async with course.strike(f"{_kind(member)} frozen"):
        member.freeze()
        try:
            yield
        finally:
            member.thaw()


@asynccontextmanager
async def reset(course: Course, way: BreakpointProxy) -> AsyncIterator[None]:
    """All connections over *way* end by RST; new ones can be made at once."""
    async with course.strike(f"{course.ways.name(way)}: reset"):
        way.reset()
        yield


@asynccontextmanager
async def cut(course: Course, way: BreakpointProxy) -> AsyncIterator[None]:
    """There is no connection over *way* for the block."""
    async with course.strike(f"{course.ways.name(way)}: cut"):
        await way.cut()
        try:
            yield
        finally:
            await way.restore()


@asynccontextmanager
async def under(
    course: Course, weather: NetworkConditions, *ways: BreakpointProxy, called: str
) -> AsyncIterator[None]:
    """Each of *ways* is under *weather* for the block, which is *called* so."""
    names = ", ".join(course.ways.name(way) for way in ways)
    async with course.strike(f"{names}: {called}"), AsyncExitStack() as stack:
        for way in ways:
            await stack.enter_async_context(way.under(weather))
        yield


def half_open(course: Course, way: BreakpointProxy) -> Fault:
    """Whatever is said over *way* is lost, and nobody is told."""
    return under(course, DROP_ALL, way, called="half-open")


def one_way(course: Course, way: BreakpointProxy, *, silent: Side) -> Fault:
    """What one side says over *way* is lost."""
    weather = NetworkConditions(silent=frozenset({silent}))
    return under(course, weather, way, called=f"nothing of the {silent.value} arrives")


def slow(course: Course, *ways: BreakpointProxy) -> Fault:
    """Everything takes its time."""
    return under(course, SLOW, *ways, called="slow")


def narrow(course: Course, *ways: BreakpointProxy) -> Fault:
    """Few bytes pass in a second."""
    return under(course, NARROW, *ways, called="narrow")


def torn(course: Course, *ways: BreakpointProxy) -> Fault:
    """Everything arrives in pieces of a few bytes."""
    return under(course, TORN, *ways, called="torn to pieces")


@asynccontextmanager
async def confirms_lost(course: Course) -> AsyncIterator[None]:
    """No confirm reaches a relay."""
    async with course.strike("confirms lost"):
        with course.ways.relay_broker.losing(Side.SERVER, ACK):
            yield


@asynccontextmanager
async def acks_lost(course: Course) -> AsyncIterator[None]:
    """No acknowledgement of a consumer reaches the broker; its connections end after that."""
    async with course.strike("acknowledgements lost"):
        with course.ways.consumer_broker.losing(Side.CLIENT, ACK):
            yield


@asynccontextmanager
async def commit_unanswered(course: Course, way: BreakpointProxy) -> AsyncIterator[None]:
    """The database hears a COMMIT over *way*, and its client never hears what became of it."""
    signs: dict[BreakpointProxy, Sign] = {
        course.ways.relay_database: SETTLEMENT,
        course.ways.consumer_database: EFFECT,
        course.ways.producer_database: EVENT,
    }
    trap = way.after(signs[way], COMMIT)
    try:
        await _sprung(trap)
        async with course.strike(f"{course.ways.name(way)}: COMMIT without an answer"):
            trap.cut()
            yield
    finally:
        way.forget(trap)


@asynccontextmanager
async def confirm_reset(course: Course) -> AsyncIterator[None]:
    """A relay's connection ends by RST when the broker has just confirmed something."""
    way = course.ways.relay_broker
    trap = way.unheard(ACK)
    try:
        await _sprung(trap)
        async with course.strike("relays and RabbitMQ: reset before a confirm"):
            way.reset()
            yield
    finally:
        way.forget(trap)


@asynccontextmanager
async def loop_blocked(course: Course, seconds: float) -> AsyncIterator[None]:
    """A handler blocks the event loop of its process."""
    await _disturb(course, BLOCK, seconds)
    async with course.strike("event loop blocked by a handler"):
        yield


@asynccontextmanager
async def handler_lingers(course: Course, seconds: float) -> AsyncIterator[None]:
    """A handler takes its time."""
    await _disturb(course, LINGER, seconds)
    async with course.strike("handler lingers"):
        yield


async def _sprung(trap: Breakpoint) -> None:
    try:
        await trap.sprung(within=PATIENCE_SECONDS)
    except AssertionError:
        raise TooQuietError from None


async def _disturb(course: Course, what: str, seconds: float) -> None:
    """Have one handler do *what* for so many *seconds*; returns when it has begun."""
    order, draft = course.directory / what, course.directory / f"{what}.draft"
    draft.write_text(str(seconds))
    draft.rename(order)
    try:
        await eventually(lambda: not order.exists(), within=PATIENCE_SECONDS)
    except AssertionError:
        order.unlink(missing_ok=True)
        raise TooQuietError from None


def _kind(member: Member) -> str:
    return _KINDS.get(member.role, "consumer")
