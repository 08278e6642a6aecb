"""
The command `relay monitor`: relays, consumers, outbox and broker on one screen.

    reading         what database and broker answered, or why they did not
    reader          asks them; every statement is in `storage` and `outbox.database`
    queue_family    work queues with their retry and dead queues, by their names: pure
    lag             the stages of an event's way, from the figures of processes: pure
    thresholds      the settings MQ_MONITOR_*
    snapshot        what a reading means: processes, rates, queues; also the JSON document: pure
    alerts          which figures of a snapshot need a person: pure
    sections        a snapshot as tables of text, with `section` and `broker_sections`: pure
    view            these tables, drawn; only this module and `screen` draw
    screen          the live view on a terminal
    command         one run of the command, and its exit status

It changes nothing. The relay does not import the consumer: what the monitor knows of consumers, it
reads from the tables that they share with the relay, and from the broker.
"""
