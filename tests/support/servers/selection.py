"""
Which tests use a server, for runs with another version of it.
"""

import pytest


def uses(item: pytest.Item, server: str) -> bool:
    """
    Return whether the test *item* uses *server*: `postgres`, `rabbitmq` or `redis`.

    A fixture asks for it by its name, or because of a parameter that names it.
    """
    name = {"rabbitmq": "rabbit"}.get(server, server)
    call = getattr(item, "callspec", None)
    parameters = map(str, call.params.values()) if call else ()
    return f"{server}_server" in getattr(item, "fixturenames", ()) or any(
        name in parameter for parameter in parameters
    )
