"""
Settings of a command, and its end if it cannot start.

`relay run` and `consumer run` need no more of this package, so nothing here draws on a terminal.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias

from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime import captured, logs
from outbox.runtime.service import ExitCode
from outbox.server_settings import DEFAULT_BROKER_URL, DEFAULT_DATABASE_URL
from outbox.setting_variables import PREFIX
from outbox.settings import Settings, SharedSettings, checked_names, load

Warnings: TypeAlias = Literal["log", "stderr"]

_DEFAULTS = {
    "database_url": (DEFAULT_DATABASE_URL, ("DATABASE_URL", "POSTGRES_URL", "PGHOST")),
    "broker_url": (DEFAULT_BROKER_URL, ("BROKER_URL", "RABBITMQ_URL", "AMQP_URL")),
}
"""Default servers of settings, and names under which other programs look for them."""
SERVERS = tuple(_DEFAULTS)


def settings(
    kind: type[Settings],
    *,
    process: str,
    warnings: Warnings | None = None,
    servers: Sequence[str] = SERVERS,
) -> Settings:
    """
    Load settings and configure the logs; invalid settings end the process with exit code 2.

    *warnings* says where to write about ignored variables, and defaults of the *servers*.
    """
    try:
        loaded = load(kind)
    except ConfigurationError as error:
        fail(error)
    configure_logs(loaded, process=process, warnings=warnings)
    for problem in setting_warnings(loaded, servers) if warnings else ():
        if warnings == "log":
            logs.get("settings").warning("setting_warning", problem=problem)
        else:
            print(f"warning: {problem}", file=sys.stderr)  # noqa: T201
    return loaded


def configure_logs(
    settings: SharedSettings, *, process: str, warnings: Warnings | None = None
) -> None:
    """Configure the logs; *warnings* are those of `settings`."""
    logs.configure(settings, process=process)
    captured.capture(settings.log_level, reports_failures=warnings == "log")


def setting_warnings(settings: SharedSettings, servers: Sequence[str] = SERVERS) -> list[str]:
    """Return a line for each variable that is ignored, and each of *servers* that is a default."""
    lines = list(checked_names(type(settings)).warnings)
    for field in servers:
        if field not in settings.model_fields_set:
            default, others = _DEFAULTS[field]
            file = Path(default.removeprefix("sqlite:///")).absolute()
            line = f"{PREFIX}{field.upper()}: is not set, so the file {file} is used"
            found = [name for name in others if os.environ.get(name)]
            lines.append(f"{line}; {found[0]} is not read" if found else line)
    return lines


def fail(error: ConfigurationError | Unavailable) -> NoReturn:
    """Print the problems, one line each, and end the process with exit code 2 or 3."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    raise SystemExit(exit_code_of(error))


def exit_code_of(error: ConfigurationError | Unavailable) -> ExitCode:
    """Return the exit code of a command that *error* ends: 2, or 3 if a server is unreachable."""
    unreachable = isinstance(error, Unavailable) and not error.refused
    return ExitCode.UNREACHABLE if unreachable else ExitCode.BAD_CONFIGURATION
