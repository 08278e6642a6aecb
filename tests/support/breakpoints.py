"""
A proxy that stops forwarding at an exact message, so that a test can kill a program there or cut
its connection.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from yarl import URL

from tests.support.eventually import eventually
from tests.support.network_conditions import Side
from tests.support.proxy import Link, Proxy
from tests.support.wire_protocols import (
    Matcher,
    Splitter,
    Statements,
    size_for_postgres,
    size_of_amqp,
    size_of_anything,
)

Observer: TypeAlias = Callable[[Link, Side, bytes], None]
"""Called with each forwarded message and the side that sent it."""


class Breakpoint:
    """
    Hit once, on the first connection on which *side* sends messages for all *matchers*, in order.

    From then on it holds back the messages of *held* on that connection. If *held* is the
    same side, the matched message is the first one held back; otherwise the reply is.
    """

    def __init__(self, matchers: tuple[Matcher, ...], *, side: Side, held: Side) -> None:
        self._matchers = matchers
        self._side = side
        self._held = held
        self._given: dict[Link, int] = {}
        self._link: Link | None = None
        self._messages: list[bytes] = []
        self._open = False

    def passes(self, link: Link, side: Side, message: bytes, resolved: bytes) -> bool:
        """Whether the proxy may forward *message*, which *side* has sent on *link*."""
        if self._link is None and side is self._side and self._is_last_match(link, resolved):
            self._link = link
        if self._open or link is not self._link or side is not self._held:
            return True
        self._messages.append(message)
        return False

    @property
    def is_hit(self) -> bool:
        return bool(self._messages)

    async def wait_until_hit(self, *, within: float = 15) -> None:
        """Wait until the breakpoint is hit."""
        await eventually(lambda: self.is_hit, within=within, message="the breakpoint was not hit")

    def release(self) -> None:
        """Forward the messages held back, and all later ones."""
        self._open = True
        for message in self._messages:
            self._caught.deliver(self._held.other, message)

    def cut(self) -> None:
        """Abort the connection on both sides; the messages held back are lost."""
        self._caught.abort()

    @property
    def _caught(self) -> Link:
        assert self._link is not None, "the breakpoint was not hit"
        return self._link

    def _is_last_match(self, link: Link, message: bytes) -> bool:
        given = self._given.get(link, 0)
        if self._matchers[given](message):
            self._given[link] = given = given + 1
        return given == len(self._matchers)


class BreakpointProxy(Proxy):
    """A proxy that reads the protocol, and holds messages back at its breakpoints."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._is_postgres = URL(url).scheme.startswith("postgres")
        self._sizes = {
            Side.CLIENT: size_for_postgres if self._is_postgres else size_of_amqp,
            Side.SERVER: size_of_anything if self._is_postgres else size_of_amqp,
        }
        self._splitters: dict[tuple[Link, Side], Splitter] = {}
        self._statements: dict[Link, Statements] = defaultdict(Statements)
        self._breakpoints: list[Breakpoint] = []
        self._dropping: list[tuple[Side, Matcher]] = []
        self._observers: list[Observer] = []

    def before(self, *matchers: Matcher) -> Breakpoint:
        """Hold back the client's message for the last matcher: the server does not get it."""
        return self._set(Breakpoint(matchers, side=Side.CLIENT, held=Side.CLIENT))

    def after(self, *matchers: Matcher) -> Breakpoint:
        """Hold back the server's reply to its last matched message: the client does not get it."""
        return self._set(Breakpoint(matchers, side=Side.CLIENT, held=Side.SERVER))

    def before_reply(self, *matchers: Matcher) -> Breakpoint:
        """Hold back the server's message for the last matcher: the client does not get it."""
        return self._set(Breakpoint(matchers, side=Side.SERVER, held=Side.SERVER))

    def forget(self, breakpoint_: Breakpoint) -> None:
        """Remove the breakpoint, hit or not."""
        self._breakpoints.remove(breakpoint_)

    def tap(self, observer: Observer) -> None:
        """Call *observer* with each message forwarded from now on."""
        self._observers.append(observer)

    @contextmanager
    def dropping(self, side: Side, matcher: Matcher) -> Iterator[None]:
        """Drop the messages of *side* that match *matcher*; reset those connections afterwards."""
        entry = (side, matcher)
        self._dropping.append(entry)
        try:
            yield
        finally:
            self._dropping.remove(entry)
            self.reset_fragmented()

    def _set(self, breakpoint_: Breakpoint) -> Breakpoint:
        self._breakpoints.append(breakpoint_)
        return breakpoint_

    def _heard(self, link: Link, side: Side, chunk: bytes) -> bytes:
        splitter = self._splitters.get((link, side))
        if splitter is None:
            splitter = self._splitters[link, side] = Splitter(self._sizes[side])
        passed = [each for each in splitter.feed(chunk) if self._passes(link, side, each)]
        for observer in self._observers:
            for message in passed:
                observer(link, side, message)
        return b"".join(passed)

    def _passes(self, link: Link, side: Side, message: bytes) -> bool:
        resolved = message
        if self._is_postgres and side is Side.CLIENT:
            resolved = self._statements[link].resolved(message)
        if any(side is dropped and matcher(resolved) for dropped, matcher in self._dropping):
            self._fragmented.add(link)
            return False
        return all(each.passes(link, side, message, resolved) for each in self._breakpoints)

    def _ended(self, link: Link) -> None:
        super()._ended(link)
        self._statements.pop(link, None)
        for side in Side:
            self._splitters.pop((link, side), None)
