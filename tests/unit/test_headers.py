from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from outbox.wire import headers

moments = st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.timezones())  # noqa: DTZ001


@given(moments)
def test_a_time_is_written_as_the_standard_library_writes_it_in_utc(moment):
    expected = moment.astimezone(UTC).isoformat(timespec="microseconds")

    assert headers.iso_text(moment) == expected


@given(moments)
def test_seconds_are_whole_and_in_utc(moment):
    assert (
        headers.epoch_seconds(moment) == moment.astimezone(UTC).replace(microsecond=0).timestamp()
    )
