"""
A server that falls silent at an exact point of a conversation, so that a program can be killed
there, or its connection cut.
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
    Sign,
    Splitter,
    Statements,
    size_for_postgres,
    size_of_amqp,
    size_of_anything,
)

Tap: TypeAlias = Callable[[Link, Side, bytes], None]
"""Is told each message that is passed on, and who has said it."""


class Breakpoint:
    """
    Springs once, on the first connection on which *side* gives all *signs*, one after another.

    From then on it holds back what *held* says on that connection: if that is the same side, from
    the last sign on, which does not get through any more; if it is the other one, the answer to
    it. Everything before gets through.
    """

    def __init__(self, signs: tuple[Sign, ...], *, side: Side, held: Side) -> None:
        self._signs = signs
        self._side = side
        self._held = held
        self._given: dict[Link, int] = {}
        self._link: Link | None = None
        self._messages: list[bytes] = []
        self._open = False

    def lets_through(self, link: Link, side: Side, message: bytes, spelt_out: bytes) -> bool:
        """Whether *message*, which *side* says on *link*, is to be passed on."""
        if self._link is None and side is self._side and self._is_last_sign(link, spelt_out):
            self._link = link
        if self._open or link is not self._link or side is not self._held:
            return True
        self._messages.append(message)
        return False

    @property
    def has_sprung(self) -> bool:
        return bool(self._messages)

    async def sprung(self, *, within: float = 15) -> None:
        """Wait until something is held back."""
        await eventually(lambda: self.has_sprung, within=within, message="the trap did not spring")

    def release(self) -> None:
        """Pass on what was held back, and everything that comes."""
        self._open = True
        for message in self._messages:
            self._caught.tell(self._held.other, message)

    def cut(self) -> None:
        """End the connection for both sides; what was held back never gets through."""
        self._caught.abort()

    @property
    def _caught(self) -> Link:
        assert self._link is not None, "the trap has not sprung"
        return self._link

    def _is_last_sign(self, link: Link, message: bytes) -> bool:
        given = self._given.get(link, 0)
        if self._signs[given](message):
            self._given[link] = given = given + 1
        return given == len(self._signs)


class BreakpointProxy(Proxy):
    """A proxy that understands what passes, and holds it up where it was told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._is_postgres = URL(url).scheme.startswith("postgres")
        self._sizes = {
            Side.CLIENT: size_for_postgres if self._is_postgres else size_of_amqp,
            Side.SERVER: size_of_anything if self._is_postgres else size_of_amqp,
        }
        self._splitters: dict[tuple[Link, Side], Splitter] = {}
        self._statements: dict[Link, Statements] = defaultdict(Statements)
        self._traps: list[Breakpoint] = []
        self._losing: list[tuple[Side, Sign]] = []
        self._taps: list[Tap] = []

    def before(self, *signs: Sign) -> Breakpoint:
        """Hold back the last of *signs* of a client: the server does not hear it."""
        return self._set(Breakpoint(signs, side=Side.CLIENT, held=Side.CLIENT))

    def after(self, *signs: Sign) -> Breakpoint:
        """Hold back the answer to the last of *signs* of a client: it is done, unheard of."""
        return self._set(Breakpoint(signs, side=Side.CLIENT, held=Side.SERVER))

    def unheard(self, *signs: Sign) -> Breakpoint:
        """Hold back the last of *signs* of the server: the client does not hear it."""
        return self._set(Breakpoint(signs, side=Side.SERVER, held=Side.SERVER))

    def forget(self, trap: Breakpoint) -> None:
        """Take away *trap*, sprung or not."""
        self._traps.remove(trap)

    def tap(self, tap: Tap) -> None:
        """Tell *tap* what passes from now on."""
        self._taps.append(tap)

    @contextmanager
    def losing(self, side: Side, sign: Sign) -> Iterator[None]:
        """Lose the messages with *sign* that *side* says, and end those connections after it."""
        entry = (side, sign)
        self._losing.append(entry)
        try:
            yield
        finally:
            self._losing.remove(entry)
            self.reset_torn()

    def _set(self, trap: Breakpoint) -> Breakpoint:
        self._traps.append(trap)
        return trap

    def _heard(self, link: Link, side: Side, chunk: bytes) -> bytes:
        splitter = self._splitters.get((link, side))
        if splitter is None:
            splitter = self._splitters[link, side] = Splitter(self._sizes[side])
        passed = [each for each in splitter.feed(chunk) if self._passes(link, side, each)]
        for tap in self._taps:
            for message in passed:
                tap(link, side, message)
        return b"".join(passed)

    def _passes(self, link: Link, side: Side, message: bytes) -> bool:
        spelt_out = message
        if self._is_postgres and side is Side.CLIENT:
            spelt_out = self._statements[link].spelt_out(message)
        if any(side is loser and sign(spelt_out) for loser, sign in self._losing):
            self._torn.add(link)
            return False
        return all(trap.lets_through(link, side, message, spelt_out) for trap in self._traps)

    def _ended(self, link: Link) -> None:
        super()._ended(link)
        self._statements.pop(link, None)
        for side in Side:
            self._splitters.pop((link, side), None)
