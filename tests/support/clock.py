"""
A wall clock that can be set, for single processes.

It is libfaketime's, which is loaded before the program: only the time of day is another one, and
what never goes back (`CLOCK_MONOTONIC`) is left alone, as when a clock is set on a real machine.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from tests.support.servers.packages import install, packages_installable

PACKAGE = "libfaketime"


class ClockMissingError(Exception):
    """There is no libfaketime, and it may not be installed."""


def _library() -> Path | None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return found[0] if found else None


class WallClock:
    """The clock that processes with its `environment` look at; its setting is in *file*."""

    def __init__(self, file: Path) -> None:
        if _library() is None and packages_installable():
            install(PACKAGE)
        library = _library()
        if library is None:
            raise ClockMissingError(
                f"row F21 sets clocks with libfaketime: `apt-get install {PACKAGE}`"
            )
        self._library = library
        self._file = file
        self.set(timedelta(0))

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set(self, ahead: timedelta) -> None:
        """Let it be *ahead* of the real one, or behind it, from about a second on."""
        # In one step: it is read at any time.
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead.total_seconds():+.0f}\n")
        new.rename(self._file)
