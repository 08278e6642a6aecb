"""
Prometheus and its tool `promtool`: of this machine, or out of Debian's package.

    programs    where the two programs are
    server      a server that scrapes processes of a test, and answers queries
"""
