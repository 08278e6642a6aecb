"""
The console scripts, which say why they cannot import this program.

A file `outbox.py` or a folder `consumer` that Python finds first would end a command with an
ImportError about a module of ours. Nothing else is likely to have the name of this package.
And the packages that a command needs may not be installed: see `extras`.
"""

import gc
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from outbox_relay.extras import installation, missing_extra

PACKAGES = ("outbox", "relay", "consumer")

_INTERRUPTED = 130
"""Exit code of a shell for a program that Ctrl-C ended."""
_OURS = Path(__file__).resolve().parent.parent


class HiddenPackage(ImportError):  # noqa: N818
    """A file or folder of the user hides a package of this program."""


class MissingPackage(ImportError):  # noqa: N818
    """A package of an extra is not installed."""


def relay() -> None:
    """Run the command `relay`."""
    _run("relay", _module("relay", arguments=0), "outbox", "relay")


def consumer() -> None:
    """Run the command `consumer`."""
    _run("consumer", _module("consumer", arguments=1), "outbox", "consumer")


def demo() -> None:
    """Run the command `relay demo`."""
    _run("all", "outbox_demo.cli", *PACKAGES)  # it starts the two others


def _module(command: str, *, arguments: int) -> str:
    """
    The module that runs the command of this process.

    A service may run for months, and needs neither the other commands nor what reads and explains
    command lines. So `run` with as many *arguments* as it needs, and no option, has a module.
    """
    name, *given = sys.argv[1:] or [""]
    is_plain = len(given) == arguments and not any(word.startswith("-") for word in given)
    return f"{command}.run" if name == "run" and is_plain else f"{command}.cli"


def _run(extra: str, module: str, *packages: str) -> None:
    if sys.argv[1:] == ["--version"]:
        # Also where the packages of the command are not installed.
        print(f"outbox-relay {version('outbox-relay')}")  # noqa: T201
        return
    try:
        check_packages(*packages)
        try:
            _imported(module).main()
        except ImportError as error:
            check_packages(*PACKAGES)  # a migration imports the tables of the consumer
            check_installed(error, extra=extra)
            raise
    except (HiddenPackage, MissingPackage) as error:
        _end(error)
    except KeyboardInterrupt:  # before the process handles signals, as while it imports
        raise SystemExit(_INTERRUPTED) from None


def _imported(module: str) -> ModuleType:
    """
    Import *module* without collecting cyclic garbage meanwhile.

    The collector would look at the same hundreds of thousands of objects again and again, of which
    almost none is garbage: a sixth of the time until a service is ready, as measured. They last as
    long as the process, so it never looks at them later either.
    """
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def explain_import_error(package: str, error: ImportError) -> None:
    """
    Raise an ImportError that says what to do about *error*, with which *package* is not imported.

    That is HiddenPackage or MissingPackage. `python -m package` imports it before any code of the
    command runs: then the process ends.
    """
    try:
        check_packages("outbox")
        check_installed(error, extra=package)
    except (HiddenPackage, MissingPackage) as reason:
        if _is_command(package):
            _end(reason)
        raise


def _is_command(package: str) -> bool:
    # Python sets the first argument to -m until it has found the module.
    if sys.argv[:1] != ["-m"]:
        return False
    return f"-m{package}" in sys.orig_argv or ("-m", package) in pairwise(sys.orig_argv)


def _end(error: ImportError) -> NoReturn:
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from None


def check_packages(*names: str) -> None:
    """Raise HiddenPackage with a line for each package of *names* that is hidden."""
    lines = [
        f"{path} hides the package {name} of outbox-relay: rename it, or take its folder out of "
        "PYTHONPATH"
        for name in names
        for path in _found_instead(name)
    ]
    if lines:
        raise HiddenPackage("\n".join(lines))


def check_installed(error: ImportError, *, extra: str) -> None:
    """Raise MissingPackage if *error* is the lack of a package of *extra*, or of a server."""
    if (missing := missing_extra(error, command=extra)) is None:
        return
    if extra == "all":
        raise MissingPackage(f"relay demo {installation(extra)}") from None
    raise MissingPackage(f"{extra} {installation(missing)}") from None


def _found_instead(name: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return
    # A folder without __init__.py has no origin.
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    for place in map(Path, places):
        found = place.parent if place.name == "__init__.py" else place
        if found.resolve() != _OURS / name:
            yield found


def hidden_by_us(module: str, folder: Path) -> Path | None:
    """Return the file or folder in *folder* that cannot be imported, as *module* is ours."""
    name = module.partition(".")[0]
    if name not in PACKAGES:
        return None
    for path in (folder / f"{name}.py", folder / name):
        if path.exists() and path.resolve() != _OURS / name:
            return path
    return None
