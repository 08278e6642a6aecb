"""
Dead letters as JSON, one a line, in a file that is only its owner's.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console

from outbox.cli import dead_letter_view as display
from outbox.dead_letters import redaction as exhibit
from outbox.dead_letters.audit import Audit
from outbox.dead_letters.queries import pages
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import ConfigurationError

OUTPUT = "-"


class ExportFailed(Exception):  # noqa: N818 - it names what happened
    """The lines cannot be written: no room, or nobody reads them."""


async def export(
    source: DeadLetterSource,
    selection: Selection,
    file: str,
    *,
    audit: Audit | None,
    console: Console,
    stop: asyncio.Event,
) -> bool:
    """
    Write the letters that *selection* means into *file*, with bodies if *audit* says who wants
    them.

    Returns whether all were written. Raises ConfigurationError if the file is there already or
    cannot be made, and ExportFailed.
    """
    written = 0
    async with source.opened(selection) as opened:
        with _new(file) as output, display.bar(console) as bar:
            task = bar.add_task("exported", total=opened.count)
            async for page in pages(opened, audit=audit):
                _write(output, page, bodies=audit is not None)
                written += len(page)
                bar.advance(task, len(page))
                if stop.is_set():
                    break
        console.print(f"exported {written:,} of {opened.count:,}")
        return written >= opened.count or not stop.is_set()


@contextmanager
def _new(file: str) -> Iterator[TextIO]:
    if file == OUTPUT:
        yield sys.stdout
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError("FILE: is there already") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"FILE: cannot be made ({type(error).__name__})") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        yield output


def _write(output: TextIO, page: Sequence[Any], *, bodies: bool) -> None:
    try:
        for letter in page:
            shown = exhibit.metadata(letter)
            if bodies:
                shown |= exhibit.keys(letter) | exhibit.body(letter)
            # Pure ASCII: no reader is to guess the encoding of a pipe.
            output.write(json.dumps(shown) + "\n")
        output.flush()
    except OSError as error:
        raise ExportFailed(type(error).__name__) from None
