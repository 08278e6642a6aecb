"""
The command `relay run`, without what only the other commands need.
"""

from outbox.cli import start
from outbox.cli.output import run_command
from outbox.runtime import service
from relay.service import serve
from relay.settings import RelaySettings


def main() -> None:
    """Run `relay run`, which has no arguments."""
    run_command(run)


def run() -> None:
    """Publish until a signal ends it; ends the process with the exit code of the service."""
    settings = start.settings(RelaySettings, process="relay", warnings="log")
    code = service.run(lambda stop: serve(settings, stop), drain=settings.drain)
    raise SystemExit(code)
