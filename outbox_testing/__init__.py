"""
The runner of tests that use relay and consumer together; tests import it as `consumer.testing`.

    running, app         put the parts together; the object that a test uses
    settings, database   settings without the environment; a database of the test's own
    publishing           the relay, one batch at a time
    handling             a consumer, one batch at a time
    pulled, brokers      queues from which the test takes messages, instead of being sent them
    rabbitmq             such queues of RabbitMQ
    clock                the time that a test lets pass
    delivered            events as a test describes them
    record, drained      the outcome: what was published and handled, and what failed
    message              a `Message` for a handler that a test calls itself
    plugin, postgres     fixtures of pytest, and databases for them

It stands above relay and consumer, which never import each other. The relay, the executor, the
settlement, the storage and both transports are those of the processes. Only their loops are not:
a test has no other process, no signal and no time that passes by itself, so here one task takes
each step after another.
"""
