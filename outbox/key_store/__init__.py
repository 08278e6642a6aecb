"""
Key databases, as consumers and commands work on them; producers use `outbox.encryption`.

    engine      the engine for a key database
    creation    makes its tables, and checks them
    batch_file  how an erasure waits for batches on SQLite
    opening     opens the keys of persons for a process
    reader      the keys of the persons of a batch, which no erasure destroys meanwhile

May import `outbox.database` and `outbox.encryption`, and nothing above them.
"""
