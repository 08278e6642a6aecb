"""
Work beside the deliveries; each file is a loop that `consumer.assembly` starts.

    dead_letter_queue   requeues or dead-letters the messages in the dead queue
    retention           purges old rows of the dedup store, and of failing messages
    failing_sampler     counts the failing messages, for the metric
    topology_monitor    checks that the work queue is still the one that was declared

May import `execution`, `checks`, `database_retry`, `storage`, `telemetry` and the files below
them; never `dispatch` or `assembly`, and no broker adapter.
"""
