"""
Connecting to Postgres or SQLite, and what their errors mean.

    engine                the SQLAlchemy engine for `MQ_DATABASE_URL`
    postgres_engine       the engine for a Postgres server
    postgres_connection   the asyncpg connection, with two corrections
    sqlite_engine         the engine for a SQLite file
    server_facts          version, clock, TLS and pooler of a Postgres server
    errors                which driver errors are waited out, and which are a handler's failure
    sqlstates             the cause of each SQLSTATE, and its meaning in plain words
    sqlite_errors         the same for SQLite's result codes
    sqlite_file           one name for a SQLite file, however it is named in a setting
    sqlite_file_lock      `FileLock`: one process at a time works on a SQLite file
    location              the schema in which the tables are, and tables that are in the way
    processes             the register of running processes
    migrate               upgrade the schema, and check its revision
    compatibility         whether this program may work on tables of another revision
    verification          all checks of a process on its tables, at start and while it runs:
    privileges              the database user has the rights that it needs
    row_access              no policy, rule or view hides rows
    id_counters             the counters of ids are not behind the rows
    targets                 the exchange or queue is the one that is recorded for the source

May import `settings`, `tables` and the files below them; never transports, runtime or commands.
Only this package imports `asyncpg`.
"""
