"""
The exceptions by which a handler decides about its message.

    return                commit the effects; the message is completed
    raise Retry           roll back; retry the message no earlier than *after*
    raise Reject          roll back; dead-letter the message at once
    any other exception   roll back; retry the message by the retry policy
"""

import re
from datetime import timedelta

from outbox.errors import OutboxError

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
LONGEST_WAIT = timedelta(days=7)


class Retry(OutboxError):  # noqa: N818 - handlers raise an outcome, not an error
    """
    Retry the message no earlier than *after*, if the policy allows a further attempt.

    Without *after* the policy sets the delay.
    Raises ValueError unless *after* is positive and at most 7 days.
    """

    def __init__(self, *, after: timedelta | None = None) -> None:
        if after is not None and not isinstance(after, timedelta):
            raise ValueError("after: must be of type timedelta")
        if after is not None and not timedelta(0) < after <= LONGEST_WAIT:
            raise ValueError("after: must be positive and at most 7 days")
        super().__init__("the handler asks for another attempt")
        self.after = after


class Reject(OutboxError):  # noqa: N818
    """
    Dead-letter the message at once, for *reason*.

    Operators see the reason: a code such as `unknown_device`, never health data.
    Raises ValueError unless it is lower-case words joined by underscores, at most 64 characters.
    """

    def __init__(self, reason: str) -> None:
        code: object = reason
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise ValueError("reason: must be lower-case words joined by underscores")
        super().__init__(f"the handler rejects the message: {reason}")
        self.reason = reason
