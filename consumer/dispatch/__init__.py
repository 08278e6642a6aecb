"""
Between the broker and the handlers: takes deliveries, chooses the next ones, settles them.

    worker            the loop over subscriptions: subscribe, dispatch, reconnect
    dispatcher        the loop over the deliveries of one subscription
    delivery_queue    chooses the next deliveries; with circuit_breaker and rate_limiter
    settlement        carries out verdicts: acks, retries, parks or dead-letters
    retry_publisher   publishes the copy for a retry, and acks the original
    parked_worker     the loop over the parked messages of an ordered consumer

May import `execution`, `database_retry`, `storage`, `telemetry` and the files below them; never
`maintenance` or `assembly`, and no broker adapter.
"""
