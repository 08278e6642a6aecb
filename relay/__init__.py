"""
The process `relay`: it moves committed events from the outbox to the broker.

    settings, cli, assembly   environment, command line, and the choice of adapters
    service                   the loop and the tasks beside it, until the process has to stop
    run                       the command `relay run`, which imports less than the others
    relay                     the loop: claim, publish, settle
    verdict                   an outcome of a publish → delete, retry, dead-letter or leave the row
    batch_publisher, waves    publishes the rows of a batch; in which order
    row, ordering_key_hash    a claimed row; the lane of an ordering key
    poll_interval, wakeup     when the next claim begins
    batch_size                how many rows it takes, smaller on a slow network
    maintenance               promotes due rows and measures the backlog
    telemetry, lag_report     all metric names and log events; the stages of an event's way
    tracing                   spans, if OpenTelemetry is set up
    event_group, measured_rows, event_gauges  why events are in the outbox; the gauges of that
    status, status_view       the command `relay status`; its output for people
    advice                    what would let the events leave, in words
    storage/                  every SQL statement
    inspection                all that `relay check` looks at
    replay                    moves dead letters back into the outbox
    monitor/                  the command `relay monitor`

May import `outbox`, never `consumer`. Only `assembly` names a database or a broker.
"""
