"""
Every SQL statement of a consumer.

    tables             the tables of consumers, and the values in them
    answer             whether the database answers at all
    dedup              inserts the dedup rows of a transaction
    inserted           finds rows that a trigger drops or changes as they are inserted
    begun              counts the redelivered messages that processes have begun
    leases             claims, extends and ends leases
    failing            records messages whose handler has failed, until they are settled
    failing_reads      groups, lists and counts them
    parked             parks messages, and finds those that are due
    parked_statements  the statements that find them
    dead_letters       writes to `dead_letters`
    outgoing_replies   records replies in the outbox
    incoming_replies   stores replies for the callers of this service
    stored_message     a message as columns of a row, and back
    completed          rows of completed messages, for a replay
    durations          writes the durations of handler calls
    purge              deletes old dedup rows
    dedup_statistics   counts and ages, for `consumer status`
    values_table       many rows as the parameters of one statement

May import `outbox`, `consumer.handler` and the files below it; never `telemetry` or `execution`.
"""
