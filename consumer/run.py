"""
The command `consumer run`, without what only the other commands need.
"""

import os
import sys
from typing import NoReturn

from consumer import supervised, target
from consumer.service import serve
from outbox.cli.output import run_command
from outbox.cli.start import fail
from outbox.errors import ConfigurationError
from outbox.runtime import service


def main() -> None:
    """Run `consumer run` with its one argument, which is the last one of the process."""
    run_command(lambda: run(sys.argv[-1]))


def run(name: str) -> NoReturn:
    """Handle events until a signal ends it; ends the process with the code of the service."""
    settings, consumer = target.start(name, warnings="log")
    try:
        supervision = supervised.supervision(os.environ, drain=settings.drain)
    except ConfigurationError as error:
        fail(error)
    code = service.run(
        lambda stop: serve(consumer, settings, stop, supervision=supervision), drain=settings.drain
    )
    raise SystemExit(code)
