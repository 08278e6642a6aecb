"""
Connecting to Postgres or SQLite, and what their errors mean.

    engine                the SQLAlchemy engine for `MQ_DATABASE_URL`
    postgres_connection   the asyncpg connection, with two corrections
    sqlite_engine         the engine for a SQLite file
    errors                which driver errors mean unavailable, contention or misconfiguration
    sqlite_errors         the same for SQLite's result codes
    sqlite_file_lock      `FileLock`: one process at a time works on a SQLite file
    migrate               upgrade the schema, and check its revision
    privileges            check that the database user has the rights it needs

May import `settings`, `tables` and the files below them; never transports, runtime or commands.
Only this package imports `asyncpg`.
"""
