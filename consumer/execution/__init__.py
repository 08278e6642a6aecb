"""
From a delivery to a verdict: decodes it, and calls its handler in a transaction.

    delivery_batch       deliveries that are handled together
    traced_executor      an executor with spans, if OpenTelemetry is set up
    decrypting_executor  an executor whose batches are decrypted, if the consumer has keys
    decryption           holds the keys of a batch, and decrypts
    executor             executes a batch, and returns a verdict on each delivery
    decode               a delivery → an attempt, or a verdict without a call
    reading              how the bodies of a batch are read
    calls                the call of a handler; answers has what it returned as replies
    transaction          the steps of every transaction, and the transaction of a handler
    unit_of_work         BEGIN, savepoint, COMMIT and ROLLBACK; on Postgres by driver_unit_of_work
    session_guard        refuses statements and commits of handlers that would end the transaction
    ordering             parks a message behind others of its lane
    parked               the transaction of a parked message; parked_context has its parts
    leased               an attempt with effects outside the database; lease_steps its transaction

May import `database_retry`, `checks`, `tracing`, `storage`, `telemetry` and the files below them;
never `dispatch` or `maintenance`. The executor settles no delivery.
"""
