"""
A server whose packages are not installed, as an error about the setting that names the server.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from outbox.errors import ConfigurationError
from outbox_relay.extras import installation, missing_extra


@contextmanager
def packages_of(server: str, *, extra: str) -> Iterator[None]:
    """
    Import the packages of *server* in this block; *server* begins with the name of its setting.

    Raises ConfigurationError, which names *extra*, if one of them is not installed.
    """
    try:
        yield
    except ImportError as error:
        if missing_extra(error, command="") != extra:
            raise
        raise ConfigurationError(f"{server} {installation(extra)}") from None
