"""
Child processes end, and are ended, alike in both ways to start them.
"""

import os
import signal
import sys

import pytest

from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY, ChildProcess, PreparedProcess
from tests.support.reaper import process_exists

MODULE = "program_of_a_test"
ORDERLY = """
import signal, sys
def leave(*_):
    print('goodbye', flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
print('ready', flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
while True:
    signal.pause()
"""
A_RUN_OF_TESTS = """
import signal
from pathlib import Path
from tests.support.processes import ChildProcess
child = ChildProcess(["sleep", "600"], log=Path("grandchild.log"))
child.start()
print("child", child.pid, flush=True)
signal.pause()
"""


@pytest.fixture(params=[ChildProcess, PreparedProcess])
def python(request, tmp_path):
    """Start a module of the test's own, in each of the two ways in turn."""

    def python(code: str) -> ChildProcess:
        (tmp_path / f"{MODULE}.py").write_text(code)
        return request.param(
            [sys.executable, "-m", MODULE, "an argument"],
            log=tmp_path / "log",
            env={"A_VARIABLE": "a value", "PYTHONPATH": str(REPOSITORY)},
            cwd=tmp_path,
        )

    return python


async def test_arguments_environment_and_directory_are_its_own(python):
    code = (
        "import os, sys\nprint(sys.argv[1:], os.environ['A_VARIABLE'], os.getcwd(), os.getpid())"
    )
    async with python(code) as child:
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
async def test_its_exit_code_shows_how_it_has_ended(python, last_words, code):
    async with python(last_words) as child:
        assert await child.wait() == code


async def test_a_terminated_child_writes_its_last_line_and_its_exit_code_is_known(python):
    async with python(ORDERLY) as child:
        await child.wait_for_line("ready")

        assert await child.terminate() == 7
        assert child.output == "ready\ngoodbye\n"


async def test_a_killed_child_leads_a_group_and_writes_no_further_line(python):
    async with python(ORDERLY) as child:
        await child.wait_for_line("ready")
        assert os.getpgid(child.pid) == child.pid

        child.kill()

        assert child.exit_code == -signal.SIGKILL
        assert child.output == "ready\n"


async def test_a_child_that_ignores_the_signal_is_killed_and_fails_the_test(python):
    async with python(STUBBORN) as child:
        await child.wait_for_line("ready")

        with pytest.raises(AssertionError, match="did not end"):
            await child.terminate(within=0.1)

        assert child.exit_code == -signal.SIGKILL


async def test_a_frozen_child_goes_on_where_it_was(python):
    async with python(ORDERLY) as child:
        await child.wait_for_line("ready")
        child.freeze()
        os.kill(child.pid, signal.SIGTERM)

        with pytest.raises(AssertionError):
            await child.wait_for_line("goodbye", within=0.2)
        child.thaw()

        assert await child.wait() == 7


async def test_a_child_that_dies_early_is_not_waited_for(python):
    async with python("print('oh no'); raise SystemExit(3)") as child:
        with pytest.raises(AssertionError, match=r"exit code 3 before it wrote 'ready':\noh no"):
            await child.wait_for_line("ready", within=60)


async def test_only_the_output_since_the_last_start_is_seen(python):
    child = python("print('once')")
    for _ in range(2):
        async with child:
            await child.wait()

        assert child.output == "once\n"


async def test_a_child_ends_with_its_block_even_if_frozen(python):
    async with python(STUBBORN) as child:
        await child.wait_for_line("ready")
        child.freeze()

    assert not child.running
    await eventually(lambda: not process_exists(child.pid))


async def test_no_child_outlives_tests_that_are_killed(python):
    async with python(A_RUN_OF_TESTS) as tests:
        line = await tests.wait_for_line("child")
        pid = int(line.split()[1])
        assert process_exists(pid)

        tests.kill()

        await eventually(lambda: not process_exists(pid))
