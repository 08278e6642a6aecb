"""
The live view: one snapshot after another on the whole terminal, until `q` or a signal ends it.
"""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.live import Live
from rich.text import Text

from outbox.errors import ConfigurationError
from outbox.runtime.service import pause
from relay.monitor.view import Drawing

REFRESH_EVERY = timedelta(seconds=2)
_END_KEYS = b"qQ"


def heading(now: datetime) -> str:
    """Return the first line of the screen."""
    return f"relay monitor  {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  q: end"


async def watch(draw: Callable[[int], Awaitable[Drawing]], stop: asyncio.Event) -> None:
    """
    Show what *draw* returns for the width of the terminal, again and again, until *stop* is set.

    Raises ConfigurationError if standard output is no terminal.
    """
    console = Console()
    if not console.is_terminal:
        raise ConfigurationError("relay monitor: standard output is no terminal: use --once")
    ending = asyncio.ensure_future(stop.wait())
    try:
        with (
            _quiet_errors(),
            _keys(stop),
            Live(Text("reading …"), console=console, screen=True, auto_refresh=False) as live,
        ):
            while not stop.is_set():
                drawing = asyncio.ensure_future(draw(console.width))
                # The view ends at once, even while a server does not answer.
                await asyncio.wait({drawing, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not drawing.done():
                    drawing.cancel()
                    await asyncio.wait({drawing})
                    break
                live.update(drawing.result(), refresh=True)
                await pause(stop, REFRESH_EVERY)
    finally:
        ending.cancel()


@contextmanager
def _keys(stop: asyncio.Event) -> Iterator[None]:
    """Set *stop* when `q` is pressed; without a terminal for input only signals end the view."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()

    def pressed() -> None:
        keys = os.read(descriptor, 64)
        if not keys or any(key in _END_KEYS for key in keys):
            stop.set()

    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _quiet_errors() -> Iterator[None]:
    """Keep lines of the log from the terminal; where they go into a file, they still do."""
    if not sys.stderr.isatty():
        yield
        return
    descriptor = sys.stderr.fileno()
    kept, nothing = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nothing)
