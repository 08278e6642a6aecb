"""
`consumer run --processes`: several processes of one consumer on one machine.

    options          the options of the command, and which consumers may be scaled
    run              the supervisor with its parts
    supervisor       the loop: how many processes run, when they leave, the exit code
    slot             keeps one process running under its number
    child            one process, and the channel to it; `consumer.supervised` is its other end
    scaling          the number of processes that a backlog needs; pure
    restarts         the decision after a process has ended by itself; pure
    merged_metrics   the metrics of all processes on one page
    telemetry        log events and metrics

The processes are ordinary ones of `consumer run`, which share the work as if they had been started
one by one.

May import `assembly`, `service`, `target` and the files below them; only `cli` imports it.
"""
