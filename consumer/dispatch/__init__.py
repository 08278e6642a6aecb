"""
Between the broker and the handlers: takes deliveries, chooses the next ones, settles them.

    worker            the loop over subscriptions: subscribe, dispatch, reconnect
    dispatcher        the loop over the deliveries of a subscription
    session           the state of one subscription, and the batches that it began
    delivery_queue    chooses the next deliveries; with pace: circuit_breaker and rate_limiter
    waiting_deliveries  all that wait here, and how they leave other than to a handler
    lane_queues       deliveries that wait behind another one of their lane
    suspects          messages that may end their process: held back, then handled alone
    strikes           counts the processes that ended with a redelivered message in their hands
    turns             handles a suspect of an ordered consumer alone, in both of its loops
    settlement        carries out verdicts: acks, retries, parks or dead-letters
    failure_recorder  records failures before their copies are published
    retry_publisher   publishes the copy for a retry, and acks the original
    parked_worker     the loop over the parked messages of an ordered consumer
    parked_strikes    counts the processes that ended with a parked message in their hands

May import `execution`, `database_retry`, `storage`, `telemetry` and the files below them; never
`maintenance` or `assembly`, and no broker adapter.
"""
