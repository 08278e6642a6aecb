"""
The command `consumer run`, without what only the other commands need.
"""

import sys

from consumer import target
from consumer.service import serve
from outbox.cli.output import run_command
from outbox.runtime import service


def main() -> None:
    """Run `consumer run` with its one argument, which is the last one of the process."""
    run_command(lambda: run(sys.argv[-1]))


def run(name: str) -> None:
    """Handle events until a signal ends it; ends the process with the code of the service."""
    settings, consumer = target.start(name, warnings="log")
    code = service.run(lambda stop: serve(consumer, settings, stop), drain=settings.drain)
    raise SystemExit(code)
