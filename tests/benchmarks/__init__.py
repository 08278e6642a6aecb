"""
What relay and consumer achieve, measured beside those of others, by hand, and in C.

    __main__.py, plan.py, results.py            groups, their extent, and goals and output
    environment.py, programs.py, progress.py, drain_curve.py    servers, programs, measuring
    throughput.py, latency.py, end_to_end.py    the relay, and the path to the effect
    embedded.py, embedded_app.py, wal.py        SQLite beside an earlier build, and bytes of WAL
    consumption.py, dedup.py                    the consumer, and its dedup store
    flatness.py, keys.py, overhead.py           backlogs, ordering keys, idle relays
    contenders.py, handwritten.py, handwritten_batch.py, floor.py, bare_path.py    by hand
    peers/, peer_programs.py                    the relays of others, and the job in C

The folder may import the product and `tests.support`. `docs/explanation/benchmarks.md` says what
each figure means and how it is taken. Run it with `make bench`, on its own servers.
"""
