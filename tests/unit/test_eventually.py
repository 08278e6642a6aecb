import asyncio
from itertools import count

import pytest

from tests.support.eventually import eventually


async def test_the_first_truthy_answer_is_returned():
    answers = iter(["", "", "here", "too late"])

    answer = await eventually(lambda: next(answers), within=5)

    assert answer == "here"
    assert list(answers) == ["too late"]


async def test_a_condition_may_be_a_coroutine_function():
    tries = count()

    async def third_try() -> bool:
        return next(tries) == 2

    assert await eventually(third_try, within=5) is True


async def test_a_true_condition_is_found_even_with_a_timeout_of_zero():
    assert await eventually(lambda: "now", within=0) == "now"


async def test_a_late_condition_fails_with_the_message_and_the_last_answer():
    with pytest.raises(AssertionError, match=r"no queue \(waited 0\.05 s, last answer: \[\]\)"):
        await eventually(list, within=0.05, message="no queue")


async def test_a_condition_that_hangs_fails_at_the_deadline():
    with pytest.raises(AssertionError, match="no answer yet"):
        await eventually(asyncio.Event().wait, within=0.05)


async def test_an_exception_of_the_condition_ends_the_wait():
    def broken() -> bool:
        raise KeyError("queue")

    with pytest.raises(KeyError):
        await eventually(broken, within=5)


async def test_a_timeout_of_the_condition_is_not_taken_for_the_deadline():
    def slow() -> bool:
        raise TimeoutError("the server's")

    with pytest.raises(TimeoutError, match="the server's"):
        await eventually(slow, within=5)
