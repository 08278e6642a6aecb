"""
The directory that holds the files of a run, and the environment that points its processes there.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outbox.errors import ConfigurationError


def environment(work: Path) -> dict[str, str]:
    """What the children find in theirs, so that *work* holds whatever has no other place."""
    return {
        "MQ_DATABASE_URL": os.environ.get("MQ_DATABASE_URL") or f"sqlite:///{work}/outbox.db",
        "MQ_BROKER_URL": os.environ.get("MQ_BROKER_URL") or f"sqlite:///{work}/broker.db",
        "MQ_ENABLE_METRICS": "true",
        "MQ_METRICS_HOST": "127.0.0.1",
        "MQ_METRICS_PORT": "0",
        "MQ_LOG_FORMAT": "json",
        "MQ_LOG_LEVEL": "info",
    }


@contextmanager
def directory(given: Path | None, *, keep: bool) -> Iterator[Path]:
    """*given*, or one that is gone afterwards unless *keep*."""
    if given is None and not keep:
        with tempfile.TemporaryDirectory(prefix="outbox-demo-") as temporary:
            yield Path(temporary).resolve()
        return
    work = Path(tempfile.mkdtemp(prefix="outbox-demo-")) if given is None else given
    if set("?#%") & set(str(work.resolve())):
        raise ConfigurationError("--directory: must have no ?, # or %, as it goes into URLs")
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(work.iterdir()):
        raise ConfigurationError("--directory: must be empty or not there yet")
    try:
        yield work.resolve()
    finally:
        print(f"everything is kept in {work.resolve()}")
