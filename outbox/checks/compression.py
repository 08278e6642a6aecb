"""
Whether a consumer can read bodies of each compression, and write those of its own events.
"""

from collections.abc import Iterator

from outbox.checks.result import Check, CheckResult
from outbox.errors import ConfigurationError
from outbox.payload import Compression
from outbox.wire.compression import check_usable


def of_compression(chosen: Compression) -> Iterator[CheckResult]:
    """Judge what is installed, where handlers compress what they record as *chosen*."""
    try:
        check_usable("zstd", "MQ_COMPRESSION" if chosen == "zstd" else "compression")
    except ConfigurationError as error:
        if chosen == "zstd":
            yield CheckResult.error(Check.COMPRESSION, str(error))
        else:
            text = f"messages with zstd wait, and cannot be read here: {error}"
            yield CheckResult.warning(Check.COMPRESSION, text)
    else:
        yield CheckResult.ok(Check.COMPRESSION, "bodies in gzip and zstd can be read")
