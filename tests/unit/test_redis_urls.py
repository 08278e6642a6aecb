"""
A list of hosts of Redis becomes one URL for each, and leaves other lists as they are.
"""

import pytest
from yarl import URL

from outbox.redis_urls import database_of, expanded


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("redis://h", ["redis://h"]),
        (
            "redis://u:p@h1:1, h2 ,[::1]:3/5?sentinel=m",
            [
                "redis://u:p@h1:1/5?sentinel=m",
                "redis://u:p@h2/5?sentinel=m",
                "redis://u:p@[::1]:3/5?sentinel=m",
            ],
        ),
        ("rediss://h1,h2?cluster=true", ["rediss://h1?cluster=true", "rediss://h2?cluster=true"]),
        ("redis://a:1,redis://b:2", ["redis://a:1", "redis://b:2"]),
        ("amqp://a, ,amqp://b", ["amqp://a", "amqp://b"]),
        ("redis://u:p/x@h", ["redis://u:p/x@h"]),
        (" , ", []),
        ("", []),
    ],
)
def test_hosts_of_one_url_become_urls(text, urls):
    assert expanded(text) == urls


@pytest.mark.parametrize(("url", "number"), [("redis://h", "0"), ("redis://h/", "0")])
def test_a_url_without_a_database_names_the_first(url, number):
    assert database_of(URL(url)) == number
