"""
Running a process: what `relay run` and `consumer run` have in common.

    service          signals, draining and exit codes
    process          the process's name, database, topology check and availability
    probes           /livez, /readyz and /metrics
    probe_server     their HTTP server, with bounds for clients that hang
    in_memory        metrics whose values no other process shares
    record_types     record types as labels of metrics
    logs             structured logs that contain no health data
    error_summary    class and place of an error, the only parts of it that are stored
    captured         messages of libraries, of the application and of Python, as log lines
    log_context      fields that every line gets: of the process, and of the handled message
    loggable_ids     ids as they are, or as digests
    spans            spans of both processes, in the traces of producers
    redacted_loggers names of loggers whose records may quote data
    shield           work that a cancellation must not interrupt, such as COMMIT
    certificate_metrics  when certificates end
    schema_monitor   checks the tables again while the process runs
    register         the row of the process in outbox_processes
    figures          what the process writes there of its work, and how others read it
    distribution     a histogram as a value: mean, quantiles, sums
    batch_histogram  a histogram as a metric, which takes the values of a batch at once

May import `transports.base`, `database`, `settings` and the files below them; never `cli` or
`dead_letters`.
"""
