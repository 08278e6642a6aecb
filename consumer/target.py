"""
The consumer on which a command works, named by its argument MODULE:NAME.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from outbox.cli import start as commands
from outbox.errors import ConfigurationError
from outbox_relay import hidden_by_us


def start(
    target: str,
    *,
    warnings: commands.Warnings | None = None,
    servers: Sequence[str] = commands.SERVERS,
) -> tuple[ConsumerSettings, Consumer]:
    """
    The settings of a command, and the consumer that its argument *target* names.

    Ends the process with exit code 2 if it cannot start; see `outbox.cli.start.settings`.
    """
    settings = commands.settings(
        ConsumerSettings, process="consumer", warnings=warnings, servers=servers
    )
    try:
        return settings, load_consumer(target)
    except ConfigurationError as error:
        commands.fail(error)


def load_consumer(target: str) -> Consumer:
    """
    The consumer that *target* names; modules are also searched in the working directory.

    Raises ConfigurationError.
    """
    module_name, _, attribute = target.partition(":")
    if not attribute:
        raise ConfigurationError("MODULE:NAME: a colon is missing, as in myapp.etl:etl")
    if not all(module_name.split(".")):
        raise ConfigurationError(
            "MODULE:NAME: the module must be words joined by dots, as in myapp.etl:etl"
        )
    module = load_module(module_name, argument="MODULE:NAME")
    found = getattr(module, attribute, None)
    if not isinstance(found, Consumer):
        _check_not_hidden(module_name, "MODULE:NAME")
        raise ConfigurationError(f"MODULE:NAME: {target} is not a Consumer")
    return found


def load_module(name: str, *, argument: str) -> ModuleType:
    """
    The module of this *name*; modules are also searched in the working directory.

    Raises ConfigurationError, which names the *argument*, if there is none.
    """
    if (directory := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except SystemExit:
        # Else its exit code would be that of this command, such as 0 for a consumer that is good.
        raise ConfigurationError(
            f"{argument}: {name} ends the process when it is imported"
        ) from None
    except ModuleNotFoundError as error:
        _check_not_hidden(error.name or name, argument)
        raise ConfigurationError(f"{argument}: there is no module {error.name}") from None
    except ImportError as error:
        _check_not_hidden(error.name or "", argument)
        raise


def _check_not_hidden(module: str, argument: str) -> None:
    if path := hidden_by_us(module, Path.cwd()):
        raise ConfigurationError(
            f"{argument}: {path} is hidden by the package of the same name of this program: "
            "rename it"
        ) from None
