"""
Encryption of events before the INSERT, and keys that can be destroyed. Needs the extra
`encryption`; nothing of it is imported while encryption is off.

    body_format      the bytes of an encrypted body: pure
    content          what is encrypted of an event besides its body: pure
    associated_data  what an encrypted body is bound to: pure
    digests          keyed digests in place of keys that may name a person
    keys             the protocol of a source of keys, and its errors
    key_ring         keys in memory, as a JSON document has them
    key_file         a document in a file, which may be replaced while a process runs
    key_file_writer  makes such a file, and replaces it
    managed_keys     sources whose keys our commands may add and remove
    guarded_keys     a source of the user's own, in a limited time and with known errors
    sources          MQ_ENCRYPTION_KEYS: from its text to a source of keys
    subjects         the protocol of the keys of persons
    key_tables       the tables of a key database, which holds both
    key_database     its keys
    subject_key_database
                     its keys of persons, as a producer makes them
    key_connection   a producer's connection to it, of limited time
    key_drivers      the same with each driver
    process_lock     a lock that a forked child finds free
    data_keys        the data key of a process, and those that it has unwrapped
    encryptor        rows of a producer
    row_reader       rows again, in tests of their producer
    decryptor        messages of a consumer

It stands on `outbox.wire`, and opens no connection to the outbox or the broker. Consumers and
commands read key databases with `outbox.key_store`.
"""
