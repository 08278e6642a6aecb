"""
Exporting dead letters as JSON, one per line, to a file that only its owner can read.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console

from outbox.audit.log import Audit
from outbox.cli import dead_letter_view as view
from outbox.dead_letters import redaction
from outbox.dead_letters.expired_body import is_expired
from outbox.dead_letters.queries import pages
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import ConfigurationError

OUTPUT = "-"


class ExportFailed(Exception):  # noqa: N818 - it names what happened
    """The lines cannot be written to the file, because the disk is full."""


async def export(
    source: DeadLetterSource,
    selection: Selection,
    file: str,
    *,
    audit: Audit[Selection] | None,
    bodies: bool,
    console: Console,
    stop: asyncio.Event,
) -> bool:
    """
    Write the dead letters that *selection* matches to *file*, and their bodies if *bodies*.

    Bodies, and a selection by key, need *audit*. Returns whether all were written. Raises
    ConfigurationError if the file exists already or cannot be created, and ExportFailed.
    """
    written = expired = 0
    async with source.opened(selection, audit) as opened:
        with _new(file) as output, view.bar(console) as bar:
            task = bar.add_task("exported", total=opened.count)
            async for page in pages(opened, audit=audit if bodies else None):
                _write(output, page, bodies=bodies)
                written += len(page)
                expired += sum(map(is_expired, page))
                bar.advance(task, len(page))
                if stop.is_set():
                    break
        console.print(f"exported {written:,} of {opened.count:,}")
        if bodies and expired:
            console.print(f"{expired:,} without a body, since it has expired: body_expired_at")
        return written >= opened.count or not stop.is_set()


@contextmanager
def _new(file: str) -> Iterator[TextIO]:
    if file == OUTPUT:
        yield sys.stdout
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError("FILE: exists already") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"FILE: cannot be created ({type(error).__name__})") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        yield output


def _write(output: TextIO, page: Sequence[Any], *, bodies: bool) -> None:
    try:
        for letter in page:
            shown = redaction.metadata(letter)
            if bodies:
                shown |= redaction.keys(letter) | redaction.body(letter)
            # Pure ASCII, so that readers of a pipe need not guess the encoding.
            output.write(json.dumps(shown) + "\n")
        output.flush()
    except OSError as error:
        raise ExportFailed(type(error).__name__) from None
