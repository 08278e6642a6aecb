"""
`relay demo`: the whole way of an event with real processes, some of which are killed.

    sources ──▶ producer ──▶ outbox ──▶ relay ──▶ broker ──▶ two consumers ──▶ effects

In the end the demo compares the committed events with the applied effects, row by row.

    cli, demo, display            command line; the course of a run; output on the terminal
    sources, ndjson, events_file  sources of events; events as JSON lines; the checked input
    run, plan, tables             names of a run; its inputs; its two tables
    producer, history, etl        the producing application and its own record; the consumer
    processes, probe              child processes and their metrics; with exit_with_parent
    fault_injector                kills processes and starts them again
    progress, audit               counts during a run; the comparison at its end
    resources, work_directory     tables, queues and files of a run: created, then removed

May import `outbox`, `relay` and `consumer`; none of them imports this package.
"""
