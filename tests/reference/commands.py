"""
The commands, from the Typer applications.
"""

from collections.abc import Iterator
from typing import Any

import typer.main

from consumer.cli import app as consumer_app
from outbox.runtime.service import ExitCode
from relay.cli import app as relay_app
from tests.reference import markdown
from tests.reference.markdown import code, one_line
from tests.reference.source import docstrings_below


def exit_codes() -> str:
    """The exit codes of processes."""
    meanings = docstrings_below("outbox/runtime/service.py", "ExitCode")
    rows = [[str(one.value), one.name.lower(), meanings[one.name]] for one in ExitCode]
    return markdown.table(["code", "name", "meaning"], rows)


def relay() -> str:
    """The command `relay` and all below it."""
    return markdown.blocks(*_group(typer.main.get_command(relay_app), ()))


def consumer() -> str:
    """The command `consumer` and all below it."""
    return markdown.blocks(*_group(typer.main.get_command(consumer_app), ()))


def _group(command: Any, parents: tuple[str, ...]) -> Iterator[str]:
    """Blocks for *command*, which may have commands of its own."""
    path = (*parents, command.name)
    if not hasattr(command, "commands"):
        yield from _one(command, path)
        return
    if parents:
        yield f"### `{' '.join(path)}`"
    else:
        yield f"## `{command.name}`"
    yield one_line(command.help)
    for child in command.commands.values():
        yield from _group(child, path)


def _one(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    parameters = [one for one in command.params if one.name != "help"]
    usage = " ".join([*path, *(_usage(one) for one in parameters if _is_argument(one))])
    options = " [OPTIONS]" if any(not _is_argument(one) for one in parameters) else ""
    yield f"{'#' * (len(path) + 1)} `{' '.join(path)}`"
    yield f"```\n{usage}{options}\n```"
    yield one_line(command.help)
    if parameters:
        rows = [[_names(one), getattr(one, "help", "") or ""] for one in parameters]
        yield markdown.table(["argument or option", "meaning"], rows)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _usage(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.upper()
    many = "..." if parameter.nargs == -1 or parameter.multiple else ""
    return f"{metavar}{many}" if parameter.required else f"[{metavar}]{many}"


def _names(parameter: Any) -> str:
    if _is_argument(parameter):
        return code(_usage(parameter))
    value = "" if parameter.is_flag else f" {parameter.metavar or 'TEXT'}"
    return ", ".join(code(f"{name}{value}") for name in parameter.opts)
