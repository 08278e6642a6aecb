"""
Functions that cannot be handlers: refused when they are registered, not by a letter a message.
"""

import functools
from unittest.mock import AsyncMock

import pytest

from consumer import Consumer
from outbox.errors import ConfigurationError
from tests.support.commands import CommandLine


def a_consumer() -> Consumer:
    return Consumer("etl", bindings=["#"])


async def with_session(message, session): ...
async def alone(message): ...
async def with_defaults(message, session, *, dry_run=False): ...
async def with_three(message, session, third): ...
async def with_keyword(message, *, session): ...
async def a_generator(message, session):
    yield


def plain(message, session): ...
def a_plain_generator(message, session):
    yield


def retried(function):
    """Return a plain function around a coroutine function, as many decorators do."""

    @functools.wraps(function)
    def call(*arguments):
        return function(*arguments)

    return call


class Callable:
    async def __call__(self, message, session) -> None: ...

    async def method(self, message, session): ...


class PlainCallable:
    def __call__(self, message, session) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        with_session,
        with_defaults,
        retried(with_session),
        functools.partial(with_three, third=1),
        functools.partial(retried(with_three), third=1),
        Callable(),
        Callable().method,
        AsyncMock(),
    ],
    ids=[
        "function",
        "with defaults",
        "decorated",
        "partial",
        "partial of decorated",
        "callable object",
        "method",
        "mock",
    ],
)
def test_coroutine_functions_of_every_kind_are_handlers(function):
    consumer = a_consumer()

    consumer.on("a")(function)
    consumer.on_batch("b", size=2)(function)

    assert set(consumer.handlers) == {"a", "b"}


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (plain, "plain: must be declared with async def"),
        (lambda *both: with_session(*reversed(both)), "must be declared with async def"),
        (retried(plain), "plain: must be declared with async def"),
        (functools.partial(plain), "partial: must be declared with async def"),
        (PlainCallable(), "PlainCallable: must be declared with async def"),
        (Callable, "Callable: must be declared with async def"),
        (None, "NoneType: must be declared with async def"),
        (print, "print: must be declared with async def"),
        (a_generator, "a_generator: must not be a generator: remove yield"),
        (a_plain_generator, "a_plain_generator: must not be a generator: remove yield"),
        (alone, "alone: must take 2 positional arguments: message, session"),
        (with_three, "with_three: must take 2 positional arguments: message, session"),
        (with_keyword, "with_keyword: must take 2 positional arguments: message, session"),
    ],
    ids=[
        "plain",
        "lambda",
        "decorated",
        "partial",
        "callable object",
        "class",
        "none",
        "builtin",
        "generator",
        "plain generator",
        "one parameter",
        "three parameters",
        "keyword parameter",
    ],
)
def test_a_function_that_cannot_be_called_as_a_handler_is_refused_at_once(function, problem):
    consumer = a_consumer()

    with pytest.raises(ConfigurationError, match=r"^consumer etl: a\.b: handler ") as caught:
        consumer.on("a.b")(function)

    assert str(caught.value).endswith(problem) or problem in str(caught.value)
    assert consumer.handlers == {}


def test_a_batch_and_a_leased_handler_have_parameters_of_their_own():
    consumer = a_consumer()
    consumer.on_leased("a")(alone)

    with pytest.raises(ConfigurationError, match=r"must take 1 positional arguments: message; "):
        consumer.on_leased("b")(with_session)
    with pytest.raises(ConfigurationError, match=r"2 positional arguments: messages, session$"):
        consumer.on_batch("b", size=2)(alone)


MODULES = {
    "plain.py": "@etl.on('a.b')\ndef load(message, session): ...\n",
    "none.py": "",
}


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_consumer_that_could_handle_no_message_is_refused_by_check_and_run(tmp_path, command):
    for name, text in MODULES.items():
        declared = "from consumer import Consumer\netl = Consumer('etl', bindings=['#'])\n"
        (tmp_path / name).write_text(declared + text)
    run = CommandLine(tmp_path, MQ_METRICS_PORT="0")

    plain_function = run("consumer", command, "plain:etl")
    without = run("consumer", command, "none:etl")

    assert (plain_function.code, without.code) == (2, 2)
    assert (
        "error: consumer etl: a.b: handler load: must be declared with async def\n"
        in plain_function.err
    )
    assert "consumer etl: has no handlers: register them in the module of " in without.err
