"""
The page that adds the outbox to an application: its files and its commands, in its order.
"""

import re
from pathlib import Path

from tests.support.commands import CommandLine
from tests.support.pages import REPOSITORY

PAGE = (REPOSITORY / "docs" / "how-to" / "add-to-your-application.md").read_text()
FILES = dict(re.findall(r'```\w+ title="([\w/.]+)"\n(.*?)```', PAGE, re.DOTALL))
SETTINGS = dict(re.findall(r"^export (\w+)=(\S+)$", PAGE, re.MULTILINE))
ARGUMENT = re.findall(r"^context.configure\(\.\.\., (.*)\)$", PAGE, re.MULTILINE)


class Reader:
    """A reader in *directory*, whose application has an Alembic of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Only the plugins that a reader has; an installed version of ours would be a second one.
        plugins = "-p pytest_asyncio.plugin -p outbox_testing.plugin -p no:cacheprovider"
        tools = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": plugins}
        self.command_line = CommandLine(directory, **SETTINGS, **tools)
        self.run("alembic init migrations")
        for name, text in FILES.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
        self.change("alembic.ini", "driver://user:pass@localhost/dbname", "sqlite:///clinic.db")
        self.change(
            "migrations/env.py",
            "target_metadata = None",
            "import outbox\nfrom clinic.models import Base\ntarget_metadata = Base.metadata",
        )
        (argument,) = ARGUMENT
        own = "target_metadata=target_metadata"
        self.change("migrations/env.py", own, f"{own}, {argument}", times=2)

    def change(self, name: str, old: str, new: str, *, times: int = 1) -> None:
        text = (self.directory / name).read_text()
        assert text.count(old) == times
        (self.directory / name).write_text(text.replace(old, new))

    def run(self, command: str) -> str:
        """The output of *command*; fails with it unless the command succeeds."""
        ended = self.command_line(*command.split())
        assert ended.code == 0, ended.out + ended.err
        return ended.out

    def follow(self, command: str) -> str:
        """Run a *command* of the page."""
        assert re.search(rf"^(.*`)?{command}(`.*)?$", PAGE, re.MULTILINE), command
        return self.run(command)


def test_a_reader_gets_tested_code_and_an_autogenerate_that_drops_nothing(tmp_path):
    reader = Reader(tmp_path)

    reader.follow("relay migrate")
    reader.follow("alembic revision --autogenerate -m appointments")
    [script] = (tmp_path / "migrations" / "versions").glob("*.py")
    upgrade = script.read_text().partition("def downgrade")[0]
    assert re.findall(r"op\.(\w+)\('(\w+)", upgrade) == [("create_table", "appointments")]
    assert "CREATE TABLE appointments" in reader.run("alembic upgrade head --sql")
    reader.follow("alembic upgrade head")
    assert reader.follow("alembic check") == "No new upgrade operations detected.\n"

    expected = FILES["tests/test_appointments.py"].count("def test_")
    assert f" {expected} passed" in reader.follow("pytest")
