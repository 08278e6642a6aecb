"""
Class and place of an error, for errors of every origin.
"""

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from consumer.middleware import around
from outbox.database.errors import reason_of
from outbox.runtime import logs, spans
from outbox.runtime.error_summary import UNKNOWN_PLACE, ErrorSummary, place_of, summary_of
from tests.support.builders import LEAK_MARKER

PACKAGES = "/srv/venv/lib/python3.13/site-packages"


def module(name: str, file: str, source: str) -> ModuleType:
    """The module *name*, as if *source* had been imported from *file*."""
    made = ModuleType(name)
    made.__file__ = file
    exec(compile(source, file, "exec"), made.__dict__)  # noqa: S102 - it is the test's own
    return made


def raised_by(function: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001 - it is what the test is about
        return without_test(error)
    raise AssertionError("it raises")


def without_test(error: BaseException) -> BaseException:
    """*error* without the frame of the test, in whose place a process has frames of ours."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


LOAD = f"""
def load(message):
    return check(message)

def check(message):
    raise KeyError("{LEAK_MARKER}")
"""
APP = module("myapp.etl", "/home/jane/myapp/etl.py", LOAD)


def test_a_place_is_the_innermost_line_of_the_application_without_its_directory():
    error = raised_by(APP.load, {})

    assert summary_of(error) == ErrorSummary("KeyError", "myapp/etl.py:6 in check")
    assert LEAK_MARKER not in repr(summary_of(error))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("orjson", f"{PACKAGES}/orjson/__init__.py"),
        ("apt_pkg", "/usr/lib/python3/dist-packages/apt_pkg.py"),
        ("acme.sdk", r"C:\Python\Lib\site-packages\acme\sdk.py"),
        ("json.decoder", "/usr/lib/python3.13/json/decoder.py"),
        ("consumer.execution.transaction", "/srv/consumer/execution/transaction.py"),
        ("outbox_testing.app", "/srv/outbox_testing/app.py"),
    ],
)
def test_frames_of_libraries_of_python_and_of_this_project_are_passed_over(name, file):
    library = module(name, file, "def call(function, *arguments): return function(*arguments)")
    source = "def load(library, fail):\n    library.call(fail)"
    app = module("myapp.etl", "/srv/myapp/etl.py", source)

    def fails():
        library.call(APP.check, 1)

    inner = raised_by(app.load, library, lambda: library.call(int, "x"))
    assert place_of(inner).startswith("tests/unit/test_error_summary.py:")
    outer = raised_by(app.load, library, "not a function")
    assert place_of(outer) == "myapp/etl.py:2 in load"
    assert place_of(raised_by(fails)) == "myapp/etl.py:6 in check"


def test_an_application_that_is_installed_is_known_by_the_package_of_its_handler():
    """Images install the application as a wheel, beside its libraries."""
    library = module("acme.sdk", f"{PACKAGES}/acme/sdk.py", "def call(x): return int(x)")
    source = "def load(library):\n    library.call('x')"
    app = module("myapp.etl", f"{PACKAGES}/myapp/etl.py", source)
    error = raised_by(app.load, library)

    assert place_of(error, "myapp") == "myapp/etl.py:2 in load"


def test_an_extension_module_is_a_library_though_its_code_has_no_directory():
    driver = module("asyncpg.protocol", "asyncpg/protocol.pyx", "def call(x): return int(x)")
    driver.__file__ = f"{PACKAGES}/asyncpg/protocol.so"
    app = module("myapp.etl", "/srv/myapp/etl.py", "def load(d):\n    d.call('x')")

    assert place_of(raised_by(app.load, driver)) == "myapp/etl.py:2 in load"


@pytest.mark.parametrize(
    ("name", "file", "place"),
    [
        ("etl", "/srv/etl.py", "etl.py:2 in load"),
        ("__main__", "/srv/etl.py", "etl.py:2 in load"),
        ("myapp", "/srv/myapp/__init__.py", "myapp/__init__.py:2 in load"),
        ("__main__", "/var/ipykernel_7/123.py", "123.py:2 in load"),
        ("__main__", f"<ipython-input-1-{LEAK_MARKER}>", "<string>:2 in load"),
        ("myapp.etl", r"C:\srv\myapp\etl.py", "myapp/etl.py:2 in load"),
        ("myapp.etl", "/srv/my\napp/e\udc80tl.py", "myapp/e?tl.py:2 in load"),
    ],
)
def test_a_file_is_named_after_its_module(name, file, place):
    app = module(name, file, "def load():\n    raise OSError")

    assert place_of(raised_by(app.load)) == place


def test_the_main_module_of_a_package_has_the_name_of_the_package():
    app = module("__main__", "/srv/myapp/__main__.py", "def load():\n    raise OSError")
    app.__spec__ = ModuleSpec("myapp.__main__", None)

    assert place_of(raised_by(app.load)) == "myapp/__main__.py:2 in load"


def test_code_that_a_program_makes_is_passed_over_for_the_line_that_calls_it():
    source = f"def load(text):\n    exec(compile(text, '<{LEAK_MARKER}>', 'exec'), {{}})"
    app = module("myapp.etl", "/srv/myapp/etl.py", source)

    assert place_of(raised_by(app.load, "int('x')")) == "myapp/etl.py:2 in load"


def test_a_lambda_is_named_like_in_a_traceback():
    app = module("myapp.etl", "/srv/myapp/etl.py", "load = lambda: int('x')")

    assert place_of(raised_by(app.load)) == "myapp/etl.py:1 in <lambda>"


def test_of_a_chain_the_error_that_the_handler_raised_counts():
    source = """
def load():
    try:
        int("x")
    except ValueError as error:
        raise LookupError("no bed") from error
"""
    app = module("myapp.etl", "/srv/myapp/etl.py", source)

    assert summary_of(raised_by(app.load)) == ErrorSummary("LookupError", "myapp/etl.py:6 in load")


async def test_after_a_timeout_the_place_is_where_the_handler_waited():
    source = """
import asyncio

async def load():
    await asyncio.sleep(60)
"""
    app = module("myapp.etl", "/srv/myapp/etl.py", source)
    consumer = module(
        "consumer.execution",
        "/srv/consumer/execution.py",
        "import asyncio\nasync def call(handler):\n"
        "    async with asyncio.timeout(0.01):\n        await handler()",
    )
    with pytest.raises(TimeoutError) as caught:
        await consumer.call(app.load)

    error = without_test(caught.value)
    assert summary_of(error) == ErrorSummary("TimeoutError", "myapp/etl.py:5 in load")


async def test_a_group_has_the_class_and_the_place_of_its_first_error():
    source = """
import asyncio

async def part():
    raise KeyError("k")

async def load():
    async with asyncio.TaskGroup() as group:
        group.create_task(part())
"""
    app = module("myapp.etl", "/srv/myapp/etl.py", source)
    with pytest.raises(ExceptionGroup) as caught:
        await app.load()
    nested = BaseExceptionGroup("", [caught.value, SystemExit()])

    assert summary_of(caught.value) == ErrorSummary(
        "ExceptionGroup of KeyError", "myapp/etl.py:5 in part"
    )
    assert summary_of(nested).error_class == "BaseExceptionGroup of ExceptionGroup of KeyError"
    assert place_of(nested) == "myapp/etl.py:5 in part"


async def test_an_error_in_middleware_has_its_place_there():
    source = "async def traced(call, call_next):\n    await call_next()\n    raise OSError('lost')"
    app = module("myapp.web", "/srv/myapp/web.py", source)

    async def load(*_: object) -> None: ...

    called = around(load, [app.traced], event_type="a", takes_list=False)
    with pytest.raises(OSError, match="lost") as caught:
        await called(None, None)

    assert place_of(caught.value) == "myapp/web.py:3 in traced"


class Bed(BaseModel):
    number: int


def test_a_model_that_refuses_a_value_has_the_line_of_the_handler():
    source = "def load(Bed):\n    Bed.model_validate({'number': 'x'})"
    app = module("myapp.etl", "/srv/myapp/etl.py", source)

    error = raised_by(app.load, Bed)

    assert summary_of(error) == ErrorSummary("ValidationError", "myapp/etl.py:2 in load")


class Base(DeclarativeBase): ...


class Ward(Base):
    __tablename__ = "wards"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def test_a_flush_in_the_handler_has_its_line_and_a_flush_of_the_commit_that_of_the_library():
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    source = "def load(session):\n    session.flush()"
    app = module("myapp.etl", "/srv/myapp/etl.py", source)
    ours = module("consumer.units", "/srv/consumer/units.py", "def end(s):\n    s.flush()")
    found = []
    for flush in (app.load, ours.end):
        with Session(engine) as session:
            session.add(Ward(id=1, name=None))
            found.append(raised_by(flush, session))

    in_handler, at_commit = (summary_of(each, package="myapp") for each in found)
    assert in_handler.error_class == "IntegrityError SQLITE_CONSTRAINT_NOTNULL"
    assert in_handler.place == "myapp/etl.py:2 in load"
    assert at_commit.place.startswith("sqlalchemy/")
    engine.dispose()


def test_an_error_of_a_driver_has_its_sqlstate():
    class UniqueViolationError(Exception):
        sqlstate = "23505"

    assert reason_of(DBAPIError(None, None, UniqueViolationError())) == (
        "UniqueViolationError 23505"
    )


def test_an_error_without_traceback_has_an_unknown_place():
    assert place_of(OSError()) == UNKNOWN_PLACE


def test_a_recursion_and_a_circle_of_causes_have_an_end():
    app = module("myapp.etl", "/srv/myapp/etl.py", "def load():\n    load()")
    deep = raised_by(app.load)
    first, second = KeyError(), ValueError()
    first.__cause__, second.__cause__ = second, first

    assert summary_of(deep) == ErrorSummary("RecursionError", "myapp/etl.py:2 in load")
    assert place_of(first) == UNKNOWN_PLACE


def test_class_and_place_are_bounded_and_printable():
    name = "n" * 1_000
    source = f"class {name}(Exception): ...\ndef load_{name}():\n    raise {name}"
    app = module(".".join(["p"] * 500), f"/srv/{name}.py", source)

    summary = summary_of(raised_by(getattr(app, f"load_{name}")))

    assert summary.error_class == "Exception"
    assert len(summary.place) < 200


@pytest.mark.parametrize("name", [f"No bed for {LEAK_MARKER}", "A\nB\x1b", "n" * 1_000])
def test_a_class_that_is_named_by_a_text_is_its_nearest_base(name):
    """An SDK may make a class for each code that a server answers."""
    error = type(name, (LookupError,), {"__module__": name})()

    assert summary_of(error).error_class == "LookupError"
    assert spans.class_of(error) == "LookupError"


class Answers(Exception):  # noqa: N818 - it is any class
    """It answers to each name, as errors of some libraries do for the fields of a response."""

    def __getattr__(self, name: str) -> Any:
        return f"{LEAK_MARKER} {name}"


class Raises(Exception):  # noqa: N818 - it is any class
    def __getattr__(self, name: str) -> Any:
        return {}[name]

    def __str__(self) -> str:
        raise ValueError

    @property
    def __cause__(self) -> Any:
        raise ValueError


class Odd(ExceptionGroup):
    exceptions = ()


def nested(levels: int) -> BaseException:
    error: Exception = KeyError(LEAK_MARKER)
    for _ in range(levels):
        error = ExceptionGroup("", [error])
    return error


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (Answers(), "Answers"),
        (type("Orig", (Exception,), {"orig": Answers()})(), "Orig"),
        (Raises(), "Raises"),
        (Odd("", [OSError()]), "Odd of OSError"),
        (nested(3_000), "ExceptionGroup of ExceptionGroup of ExceptionGroup of KeyError"),
    ],
    ids=["answers", "orig", "raises", "odd group", "deep group"],
)
def test_no_error_of_an_application_can_answer_for_its_summary(error, error_class):
    app = module("myapp.etl", "/srv/myapp/etl.py", "def load(error):\n    raise error")

    caught = raised_by(app.load, error)

    assert summary_of(caught) == ErrorSummary(error_class, "myapp/etl.py:2 in load")
    assert logs.describe(caught)["error"] == error_class


def test_variables_of_a_module_may_have_any_value():
    app = module("myapp.etl", "/srv/myapp/etl.py", "def load():\n    raise OSError")
    app.__dict__.update(__name__=7, __file__=None, __spec__=7)

    assert place_of(raised_by(app.load)) == "etl.py:2 in load"
    app.__dict__["__name__"] = "__main__"
    assert place_of(raised_by(app.load)) == "etl.py:2 in load"
