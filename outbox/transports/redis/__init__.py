"""
Redis Streams. Only this package imports `redis`.

    transport        its promises and limits; publishing
    subscription     deliveries of one queue
    messages         every call of a script, and the routes that it needs
    script_runner    run a script, and wait for entries or replicas
    scripts          the scripts: every statement on queues, messages and leases
    script_functions   keys in the server, and the functions that scripts share
    entries          messages as entries of streams, and back
    declarations     what is declared in the server, compared and routed
    management       the server's answers to questions beside messages
    addresses        the server behind Sentinels or in a cluster, and clients that find it
    found_connection   a connection that finds its server by itself
    connect_errors   errors of the client and of the server as BrokerUnavailable
    inspection       what the server says about itself, and attempts without an effect

May import `transports.base`, `transports.topology`, `transports.delivery`, `transports.routes`,
`transports.stored_message`, `transports.tls`, `redis_urls`, `wire` and `errors`.
"""
