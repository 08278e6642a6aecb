"""
Processes with their imports done end, and are ended, like any other.
"""

import os
import signal
import sys

import pytest

from tests.support.processes import ChildProcess, PreparedProcess

WORD = "tests_of_prepared_processes"


@pytest.fixture(params=[ChildProcess, PreparedProcess])
def start(request, tmp_path):
    """Start a module of the test's own, by each of the two ways in turn."""

    def started(text: str) -> ChildProcess:
        (tmp_path / f"{WORD}.py").write_text(text)
        return request.param(
            [sys.executable, "-m", WORD, "an argument"],
            log=tmp_path / "log",
            env={"A_VARIABLE": "a value"},
            cwd=tmp_path,
        )

    return started


async def test_arguments_environment_and_directory_are_its_own(start):
    text = (
        "import os, sys\nprint(sys.argv[1:], os.environ['A_VARIABLE'], os.getcwd(), os.getpid())"
    )
    async with start(text) as child:
        assert await child.wait() == 0

        facts = f"['an argument'] a value {child.log.parent} {child.pid}"
        assert child.output.splitlines() == [facts]


@pytest.mark.parametrize(
    ("last_words", "code"),
    [
        ("", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('a message')", 1),
        ("raise ValueError", 1),
        ("import os; os.kill(os.getpid(), 15)", -15),
    ],
)
async def test_its_exit_code_shows_how_it_has_ended(start, last_words, code):
    async with start(last_words) as child:
        assert await child.wait() == code


async def test_it_leads_a_group_and_is_ended_by_signals(start):
    async with start("import time\nprint('up')\ntime.sleep(60)") as child:
        await child.wait_for_line("up")
        assert os.getpgid(child.pid) == child.pid

        child.kill()

        assert child.exit_code == -signal.SIGKILL


async def test_it_ends_with_its_block(start):
    async with start("import time\nprint('up')\ntime.sleep(60)") as child:
        await child.wait_for_line("up")

    assert not child.running
