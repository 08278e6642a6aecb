"""
Redis Streams. Only this package imports `redis`.

    addresses        the server behind Sentinels or in a cluster, and clients that find it
    connect_errors   errors of the client and of the server as BrokerUnavailable
    inspection       what the server says about itself, and attempts without an effect
"""
