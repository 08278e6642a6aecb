"""
A wall clock that a test can set for single processes.

It preloads libfaketime, which changes the time of day only. `CLOCK_MONOTONIC` stays as it is, as
when an administrator sets the clock of a real machine.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from tests.support.servers.packages import install, packages_installable

PACKAGE = "libfaketime"


class ClockMissingError(Exception):
    """libfaketime is missing, and the tests may not install it."""


def _library() -> Path | None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return found[0] if found else None


class WallClock:
    """The clock of processes that start with its `environment`; *file* holds its setting."""

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
        """Set it *ahead* of the real clock, or behind it; takes effect after about a second."""
        # Atomically: the library may read the file at any time.
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead.total_seconds():+.0f}\n")
        new.rename(self._file)
