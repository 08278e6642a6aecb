"""
Compression of the bodies that this process records.

Until `use_compression` is called, MQ_COMPRESSION in the environment decides when the first event
is recorded; without it bodies stay as they are.
"""

import os
from typing import Any

from outbox.errors import ConfigurationError
from outbox.event import Event
from outbox.payload import COMPRESSIONS, Compression
from outbox.wire.compression import check_usable, compress

SETTING = "MQ_COMPRESSION"

_chosen: Compression | None = None
_by_call = False


def use_compression(compression: Compression) -> None:
    """
    Compress the bodies that this process records, from now on, as MQ_COMPRESSION does.

    *compression* is "gzip", "zstd" or "none"; an event with one of its own keeps it. A body is
    compressed only where that makes it a tenth shorter or more. Compression before encryption
    shows by the size of a body how much of it repeats itself. Raises ConfigurationError.
    """
    global _by_call  # noqa: PLW0603 - one for the process, like the allowed headers
    _use(compression, "use_compression")
    _by_call = True


def use_setting(compression: Compression) -> None:
    """Compress as the setting of a process says, unless `use_compression` was called."""
    if not _by_call:
        _use(compression, SETTING)


def compression_of(event: Event) -> Compression:
    """The compression of *event*, or else that of the process; raises ConfigurationError."""
    if event.compression is not None:
        return event.compression
    if _chosen is None:
        _use(os.environ.get(SETTING) or "none", SETTING)
    assert _chosen is not None  # noqa: S101 - it was chosen just now
    return _chosen


def compressed(row: dict[str, Any], how: Compression) -> dict[str, Any]:
    """The *row* of an event with its body compressed, if that pays."""
    if how == "none":
        return row
    body, encoding = compress(row["body"], how, row["content_type"])
    return {**row, "body": body, "content_encoding": encoding}


def _use(compression: str, source: str) -> None:
    global _chosen  # noqa: PLW0603 - one for the process, like the allowed headers
    for known in COMPRESSIONS:
        if compression == known:
            check_usable(known, source)
            _chosen = known
            return
    raise ConfigurationError(f"{source}: must be {', '.join(COMPRESSIONS)}")
