"""
The directory that holds the files of a run, and the environment variables of its processes.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outbox.errors import ConfigurationError


def environment(directory: Path) -> dict[str, str]:
    """Variables of the child processes; databases that are not configured go to *directory*."""
    return {
        "MQ_DATABASE_URL": os.environ.get("MQ_DATABASE_URL") or f"sqlite:///{directory}/outbox.db",
        "MQ_BROKER_URL": os.environ.get("MQ_BROKER_URL") or f"sqlite:///{directory}/broker.db",
        "MQ_ENABLE_METRICS": "true",
        "MQ_METRICS_HOST": "127.0.0.1",
        "MQ_METRICS_PORT": "0",
        "MQ_LOG_FORMAT": "json",
        "MQ_LOG_LEVEL": "info",
    }


@contextmanager
def work_directory(given: Path | None, *, keep: bool) -> Iterator[Path]:
    """
    The directory *given*, which is kept, or a temporary one, which is removed unless *keep*.

    Raises ConfigurationError if the given one is not empty, or cannot be part of a URL.
    """
    if given is None and not keep:
        with tempfile.TemporaryDirectory(prefix="outbox-demo-") as temporary:
            yield Path(temporary).resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="outbox-demo-")) if given is None else given
    if set("?#%") & set(str(directory.resolve())):
        raise ConfigurationError(
            "--directory: must have no ?, # or %, because it becomes part of URLs"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ConfigurationError("--directory: must be empty or not exist")
    try:
        yield directory.resolve()
    finally:
        print(f"files and logs are kept in {directory.resolve()}")
