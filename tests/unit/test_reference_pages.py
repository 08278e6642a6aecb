"""The generated sections of the reference pages are those of the code."""

import inspect
import re
from datetime import timedelta

import pytest

import consumer
import consumer.testing
import outbox
import outbox.testing
from consumer import outcomes
from consumer.queues import ConsumerQueues
from consumer.verdict import CODES
from outbox import errors
from outbox.errors import OutboxError
from outbox.transports.base import Outcome
from relay.storage.settlement import UNSETTLED
from tests.reference import log_events, markdown, metrics, pages, settings
from tests.reference.pages import COMMAND, SECTIONS, rendered, sections_in, stale
from tests.reference.signatures import signature

PAGES = {page.name: page.read_text() for page in pages.PAGES}
DLX = "health_data_dlx"
QUEUES = ConsumerQueues("<queue>", bindings=["#"], delays=[timedelta(seconds=30)])
DEAD_LETTERED_BY_RELAY = {
    Outcome.RETURNED,
    Outcome.NACKED,
    Outcome.REJECTED,
    Outcome.MALFORMED,
    Outcome.PLAIN,
}


def reasons_under(heading):
    section = PAGES["errors.md"].partition(f"### {heading}\n")[2]
    table = re.search(r"^\| reason .*?\n\n", section, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^\| `(\w+)`", table[0], re.MULTILINE))


def test_no_page_is_stale():
    found = [page.name for page in stale()]

    assert found == [], f"stale pages: {found}; run: {COMMAND}"


def test_every_section_is_on_one_page():
    found = [name for text in PAGES.values() for name in sections_in(text)]

    assert sorted(found) == sorted(SECTIONS)


def test_text_around_sections_is_kept():
    page = "above\n\n<!-- begin exit-codes -->\nold\n<!-- end -->\n\nbelow\n"

    new = rendered(page)

    assert new.startswith("above\n\n<!-- begin exit-codes -->\n\n| code |")
    assert new.endswith("|\n\n<!-- end -->\n\nbelow\n")
    assert rendered(new) == new


@pytest.mark.parametrize("module", [outbox, consumer, outbox.testing, consumer.testing])
def test_the_public_api_has_every_exported_name_and_no_other(module):
    section = PAGES["public-api.md"].partition(
        f"begin names-{module.__name__.replace('.', '-')} "
    )[2]
    table = section.partition("<!-- end -->")[0]
    names = re.findall(r"^\| `(\w+)` ", table, re.MULTILINE)

    assert names == list(module.__all__)


def test_the_public_headers_are_those_of_the_wire_format():
    public = PAGES["public-api.md"].partition("begin headers")[2]
    table = re.findall(r"^\| `(x-outbox-[a-z-]+)`", PAGES["wire-format.md"], re.MULTILINE)

    assert sorted(table) == re.findall(r"`(x-outbox-[a-z-]+)`", public)


def test_every_log_event_has_a_meaning():
    assert log_events.undescribed() == set()


def test_log_events_have_the_fields_of_their_calls():
    events = {event.name: event for event in log_events.log_events()}

    assert events["handler_failed"].fields == (
        *("type", "attempt", "place", "message_id", "correlation_id"),
        *("error", "at"),
    )
    assert events["consumer_started"].fields == ("consumer", "queue", "database")
    assert events["consumer_started"].level == "info"
    assert events["library_message"].fields == ("text", "function", "line", "error", "at")


def test_the_page_has_every_reason_code_and_no_other():
    assert reasons_under("Written by a consumer") == CODES
    assert reasons_under("Written by the relay") == {
        *(one.value for one in DEAD_LETTERED_BY_RELAY),
        UNSETTLED,
    }


@pytest.mark.parametrize("module", [errors, outcomes])
def test_every_exception_of_the_module_is_in_the_tree(module):
    tree = PAGES["errors.md"].partition("begin exception-tree")[2].partition("<!-- end -->")[0]
    names = {
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, OutboxError)
    }

    assert names
    assert names <= set(re.findall(r"\w+", tree))


@pytest.mark.parametrize("render", [settings.shared, settings.relay, settings.consumer])
def test_every_setting_has_a_meaning(render):
    rows = render().splitlines()[2:]

    assert rows
    assert all(re.search(r"\| \S[^|]*[.] \|$", row) for row in rows)


@pytest.mark.parametrize("render", [metrics.relay, metrics.consumer])
def test_every_metric_has_a_meaning(render):
    rows = render().splitlines()[2:]

    assert rows
    assert all(re.search(r"\| \S[^|]*[.] \|$", row) for row in rows)


def test_attempts_and_retries_are_separate_settings():
    row = {
        name: re.search(rf"^\| `{name}` .*`3`: .* (\d) times", PAGES["settings.md"], re.MULTILINE)
        for name in ("MQ_PUBLISH_MAX_ATTEMPTS", "MQ_MAX_RETRIES")
    }

    assert row["MQ_PUBLISH_MAX_ATTEMPTS"][1] == "3"
    assert row["MQ_MAX_RETRIES"][1] == "4"


def test_signatures_are_those_of_the_source():
    assert signature("RateLimit", consumer.RateLimit) == (
        "RateLimit(messages: int, per: timedelta = timedelta(seconds=1))"
    )
    assert signature("Retry", consumer.Retry) == "Retry(*, after: timedelta | None = None)"
    assert signature("Consumer.on", consumer.Consumer.on) == (
        "Consumer.on(event: str | type | None = None, /, *, batch_size: int | None = None,"
        " model: type[BaseModel] | None = None, **options) -> Any"
    )
    assert signature("OutboxError", OutboxError) == "OutboxError"


def test_cells_of_tables_stay_cells():
    assert markdown.table(["a", "b"], [["x | y", "two\nlines"]]) == (
        "| a | b |\n|---|---|\n| x \\| y | two lines |"
    )


@pytest.mark.parametrize("queue", QUEUES.topology(main_exchange="-", dlx_exchange=DLX).queues)
def test_the_wire_format_has_the_arguments_of_each_queue(queue):
    """People who declare the queues themselves copy them."""
    [row] = re.findall(rf"^\| `{re.escape(queue.name)}`.*", PAGES["wire-format.md"], re.MULTILINE)

    for name, value in queue.arguments.items():
        told = f"`{name}: {value}`" if value else f"`{name}:` (empty)"
        assert name == "x-queue-type" or told in row
