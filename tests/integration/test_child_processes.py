import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ChildProcess
from tests.support.reaper import process_exists

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
import signal, sys
from pathlib import Path
from tests.support.processes import ChildProcess
child = ChildProcess(["sleep", "600"], log=Path(sys.argv[1]))
child.start()
print("child", child.pid, flush=True)
signal.pause()
"""


def python(code: str, *words: str, log: Path) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code, *words], log=log)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


async def test_a_terminated_child_writes_its_last_line_and_its_exit_code_is_known(log: Path):
    async with python(ORDERLY, log=log) as child:
        await child.wait_for_line("ready")

        assert await child.terminate() == 7
        assert child.output == "ready\ngoodbye\n"


async def test_a_killed_child_writes_no_further_line(log: Path):
    async with python(ORDERLY, log=log) as child:
        await child.wait_for_line("ready")

        child.kill()

        assert child.exit_code == -signal.SIGKILL
        assert child.output == "ready\n"


async def test_a_child_that_ignores_the_signal_is_killed_and_fails_the_test(log: Path):
    async with python(STUBBORN, log=log) as child:
        await child.wait_for_line("ready")

        with pytest.raises(AssertionError, match="did not end"):
            await child.terminate(within=0.1)

        assert child.exit_code == -signal.SIGKILL


async def test_a_frozen_child_goes_on_where_it_was(log: Path):
    async with python(ORDERLY, log=log) as child:
        await child.wait_for_line("ready")
        child.freeze()
        os.kill(child.pid, signal.SIGTERM)

        with pytest.raises(AssertionError):
            await child.wait_for_line("goodbye", within=0.2)
        child.thaw()

        assert await child.wait() == 7


async def test_a_child_that_dies_early_is_not_waited_for(log: Path):
    async with python("print('oh no'); raise SystemExit(3)", log=log) as child:
        with pytest.raises(AssertionError, match=r"exit code 3 before it wrote 'ready':\noh no"):
            await child.wait_for_line("ready", within=60)


async def test_only_the_output_since_the_last_start_is_seen(log: Path):
    child = python("print('once')", log=log)
    for _ in range(2):
        async with child:
            await child.wait()

        assert child.output == "once\n"


async def test_a_child_ends_with_its_block_even_if_frozen(log: Path):
    async with python(STUBBORN, log=log) as child:
        await child.wait_for_line("ready")
        child.freeze()

    assert not process_exists(child.pid)


async def test_no_child_outlives_tests_that_are_killed(log: Path, tmp_path: Path):
    async with python(A_RUN_OF_TESTS, str(tmp_path / "grandchild.log"), log=log) as tests:
        line = await tests.wait_for_line("child")
        pid = int(line.split()[1])
        assert process_exists(pid)

        tests.kill()

        await eventually(lambda: not process_exists(pid))
