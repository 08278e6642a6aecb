"""
Secrets in files of one directory, as Docker and Kubernetes mount them; for producers too, which
may lack the packages of the settings.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from outbox.errors import ConfigurationError

USUAL = Path("/run/secrets")
"""Where Docker mounts secrets."""

DIRECTORY = "MQ_SECRETS_DIR"


def mounted(names: Collection[str], environment: Mapping[str, str]) -> dict[str, str]:
    """
    Return the contents of the files with these *names*, in any letter case.

    The directory is the one in MQ_SECRETS_DIR, or else the usual one, if this user may read that.
    Raises ConfigurationError, which names the setting.
    """
    given = environment.get(DIRECTORY)
    if given is None and not os.access(USUAL, os.R_OK | os.X_OK):
        return {}
    name = DIRECTORY
    try:
        directory = USUAL if given is None else Path(given).expanduser()
        found = {}
        for path in directory.iterdir():
            if (name := path.name.upper()) in names:
                found[name] = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise ConfigurationError(f"{name}: cannot be read ({type(error).__name__})") from None
    return found
