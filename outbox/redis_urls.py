"""
URLs of Redis in MQ_BROKER_URL: one server, the Sentinels of a service, or nodes of a cluster.

    redis://app:PASSWORD@localhost:6379/0                        one server, database 0
    rediss://app:PASSWORD@mq.example:6380                        with TLS
    redis://app:PASSWORD@s1:26379,s2:26379,s3:26379/0?sentinel=mq    the primary of the service mq
    redis://app:PASSWORD@n1:6379,n2:6379,n3:6379?cluster=true    a cluster

A list of several servers is no failover list: each server has messages of its own.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The URL class of aio-pika. A producer may lack it.
    from yarl import URL

SCHEMES = frozenset({"redis", "rediss"})
PARAMETERS = frozenset(
    {
        "cafile",
        "capath",
        "certfile",
        "cluster",
        "keyfile",
        "no_verify_ssl",
        "sentinel",
        "sentinel_password",
        "sentinel_user",
    }
)
MOST_DATABASES = 100_000
"""Numbers of databases are below; a server has 16 unless it was configured."""

_OF_SENTINEL = ("sentinel_password", "sentinel_user")
_AUTHORITY = re.compile(r"(rediss?://(?:[^/?#@]*@)?)([^/?#@]+)([/?#].*)?", re.DOTALL)
_SETTING = "MQ_BROKER_URL"


def expanded(text: str) -> list[str]:
    """
    Return the URLs of a list, without blanks around them.

    A URL of Redis may name several hosts, as in `redis://a,b/0?sentinel=mq`: it becomes one URL
    for each of them.
    """
    found = _AUTHORITY.fullmatch(text.strip())
    if found is None or text.count("://") > 1:
        parts = text.split(",")
    else:
        before, hosts, after = found[1], found[2], found[3] or ""
        named = [host.strip() for host in hosts.split(",")]
        parts = [f"{before}{host}{after}" for host in named if host]
    return [part.strip() for part in parts if part.strip()]


def check(url: "URL") -> None:
    """Raise ValueError if a part of *url*, whose scheme is one of SCHEMES, cannot work."""
    database = database_of(url)
    if not database.isdecimal() or int(database) >= MOST_DATABASES:
        raise ValueError(
            f"{_SETTING}: behind the host stands the number of the database, as in /0"
        )
    if url.fragment:
        raise ValueError(f"{_SETTING}: write # in a user or password as %23")
    if url.user and url.password is None:
        raise ValueError(f"{_SETTING}: has a user without a password")
    for name in ("sentinel", "cluster", *_OF_SENTINEL):
        if name in url.query and not url.query[name]:
            raise ValueError(f"{_SETTING}: {name} is empty: give it a value, or remove it")
    _check_cluster(url, database)
    _check_sentinel(url)


def database_of(url: "URL") -> str:
    """Return the number of the database of *url*, as it is written; `0` if it names none."""
    return url.path.removeprefix("/") or "0"


def _check_cluster(url: "URL", database: str) -> None:
    if "cluster" not in url.query:
        return
    if url.query["cluster"] != "true":
        raise ValueError(f"{_SETTING}: cluster must be true; without one, remove it")
    if "sentinel" in url.query:
        raise ValueError(f"{_SETTING}: has cluster and sentinel: a cluster has no Sentinels")
    if int(database) != 0:
        raise ValueError(f"{_SETTING}: a cluster has the database 0 only")


def _check_sentinel(url: "URL") -> None:
    if "sentinel" not in url.query and any(name in url.query for name in _OF_SENTINEL):
        raise ValueError(f"{_SETTING}: sentinel_user and sentinel_password need sentinel")
    if "sentinel_user" in url.query and "sentinel_password" not in url.query:
        raise ValueError(f"{_SETTING}: has sentinel_user without sentinel_password")


def check_list(urls: Sequence["URL"]) -> None:
    """Raise ValueError if *urls*, all of one scheme of SCHEMES, are not those of one broker."""
    first = urls[0]
    if len(urls) > 1 and not {"sentinel", "cluster"} & set(first.query):
        raise ValueError(
            f"{_SETTING}: several servers of Redis are several brokers: name one of them, or their"
            " Sentinels with ?sentinel=NAME, or nodes of a cluster with ?cluster=true"
        )
    if len({_without_host(url) for url in urls}) > 1:
        raise ValueError(f"{_SETTING}: URLs of Redis in a list may differ in host and port only")


def _without_host(url: "URL") -> tuple[str | None, str | None, str, str]:
    return url.user, url.password, database_of(url), url.query_string
