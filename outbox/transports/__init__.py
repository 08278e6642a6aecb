"""
Brokers: one set of protocols, and one package for each broker.

    base       the protocols Transport, Publisher and Subscription, and the outcomes
    topology   exchanges, queues and bindings as values
    user_topology   exchanges and bindings as users declare them, as such values
    matching   whether a binding takes a message
    routes     whether a routing key leads to a queue, from the bindings of a broker
    inspection attempts without an effect, and what a broker answers
    management what a broker says about itself beside messages
    broker_figures   its queues, connections, memory and disk as values
    connect    the transport for `MQ_BROKER_URL`
    tls        the context of TLS for a broker
    redis_facts   how durably a server of Redis stores messages
    stored_message   a message as brokers without AMQP store it
    capacity   the room of a subscription that fetches its messages
    delivery   a delivery, and the buffer between a connection and the task that takes it
    observation   copies of messages for observers
    rabbitmq/  RabbitMQ through aio-pika
    redis/     Redis Streams
    sqlite/    a broker in one SQLite file

The packages `rabbitmq`, `redis` and `sqlite` never import each other, and only `connect` and the
tests name them. May import `database`, `settings`, `wire` and the files below them.
`tests/contracts/test_transport.py` checks every transport against the protocols.
"""
