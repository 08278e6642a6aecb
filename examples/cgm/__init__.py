"""
Continuous glucose readings: bursts of five-minute values, parts of which devices send again.

    relay migrate && python -m examples.cgm.tables    # in a database of your own
    relay run &                       # or in two further terminals
    consumer run examples.cgm.handlers:cgm &
    python -m examples.cgm.device               # record the uploads of two synthetic devices
    python -m examples.cgm.report               # time in range, for each device and hour

    upload      the event: a window of readings, as a device uploads it
    device      a synthetic device, which uploads overlapping windows and repeats itself
    tables      the table of readings
    handlers    windows, many at once, become rows: one for each device and time
    report      a table of hours

Two windows of a device overlap, so the same reading arrives several times under several keys. The
dedup store drops repeated uploads; the upsert makes one row of repeated readings, of which the one
that was uploaded last counts. So the order of arrival does not matter, and no ordering key is set.
"""
