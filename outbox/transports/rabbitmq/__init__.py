"""
RabbitMQ through aio-pika. Only this package imports `aio_pika`, `aiormq` or `pamqp`.

    transport, connection, topology     connect, declare, compare
    topology_removal                    remove bindings, exchanges and empty queues
    inspection                          try what the user may do, without an effect
    publisher                           publish, and find the message that closed a channel
    confirm_channel                     one channel with publisher confirms, and its replacement
    publish_batch, publish_gather       the two ways to publish several messages
    unconfirmed                         the confirms that a batch waits for
    confirms, in_flight                 what a confirm means; how much may be unconfirmed
    frame_encoder                       a message as the bytes of its frames
    subscription                        deliveries from one queue
    frame_reader                        cut deliveries out of the bytes of a connection
    frame_decoder, table_decoder        the bytes of a delivery as a message
    acks, direct_acks                   send acks together, or one by one
    observation                         copies for observers, made by the broker's tracer
    management, management_client       the management API: its answers, and the requests
    broker_figures                      the figures in these answers

May import `transports.base`, `transports.topology`, `transports.delivery`, `transports.tls`,
`wire` and `errors`.
"""
