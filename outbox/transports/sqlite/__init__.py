"""
A broker in one SQLite file, for processes of one host.

    transport      its promises and limits; publishing
    subscription   deliveries of one queue
    messages       every statement on messages and their leases
    message_rows   messages as rows, and back
    consumers      leases of consumers, and which of them is active
    observation    copies of an observer, fetched while it lasts
    observers      every statement on observers and their copies
    schema         the tables, and what is declared in them
    routing        bindings of all kinds, and the queues that a message goes to
    topology_removal   bindings, exchanges and empty queues are removed
    connection     one connection with its own thread, and the lock between writers

May import `transports.base`, `transports.topology`, `transports.delivery`,
`transports.observation`, `database.sqlite_file_lock`, `database.sqlite_errors`, `wire` and
`errors`.
"""
