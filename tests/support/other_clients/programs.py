"""
The programs of `docs/how-to/other-clients.md`, as files that can be run.
"""

import re
import shutil
import sys
from pathlib import Path

from tests.support.other_clients.installation import Installation
from tests.support.pages import REPOSITORY
from tests.support.processes import ChildProcess

PAGE = REPOSITORY / "docs" / "how-to" / "other-clients.md"
COPIED = REPOSITORY / "examples" / "node"
"""The files that the page says to copy."""

_PROGRAM = re.compile(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def programs(page: Path = PAGE) -> dict[str, str]:
    """The text of each program on *page*, by the name of its file."""
    return dict(_PROGRAM.findall(page.read_text()))


class Programs:
    """The programs of the page as files in *directory*; they get the addresses of *urls*."""

    def __init__(self, installed: Installation, directory: Path, **urls: str) -> None:
        self._installed, self._directory = installed, directory
        # They compile the libraries once: the folder lasts.
        self._environment = {
            "PYTHONPATH": str(installed.python_path),
            "PYTHONDONTWRITEBYTECODE": "",
            **urls,
        }
        # An import of Node.js is looked for beside the file, and above.
        modules = installed.node_folder / "node_modules"
        (directory / "node_modules").symlink_to(modules, target_is_directory=True)
        for name, text in programs().items():
            (directory / name).write_text(text)
        for file in COPIED.glob("*.mjs"):
            shutil.copy(file, directory)

    def program(self, name: str, **variables: str) -> ChildProcess:
        """The program in the file *name*, which is not started yet."""
        interpreter = sys.executable if name.endswith(".py") else self._installed.node
        return ChildProcess(
            [interpreter, name],
            log=self._directory / f"{name}.log",
            env={**self._environment, **variables},
            cwd=self._directory,
        )
