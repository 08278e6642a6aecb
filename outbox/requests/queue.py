"""
The queue that replies come to: one for each service, which owns the requests in its database.
"""

import os
import re

from outbox.errors import ConfigurationError

SETTING = "MQ_REPLY_QUEUE"
DEFAULT = "health.replies"

_QUEUE = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


def reply_queue(name: str | None = None) -> str:
    """
    Return *name*, or else MQ_REPLY_QUEUE in the environment, or else `health.replies`.

    Raises ConfigurationError if no queue can have the name.
    """
    queue: object = name or os.environ.get(SETTING) or DEFAULT
    if not isinstance(queue, str) or _QUEUE.fullmatch(queue) is None:
        source = "reply_to" if name else SETTING
        raise ConfigurationError(f"{source}: must be 1 to 200 letters, digits and _.:-")
    return queue
