"""
What a handler can raise to say what shall become of its message.

    return                the effects are committed, the message is done
    raise Retry           nothing is kept, it is tried again no earlier than *after*
    raise Reject          nothing is kept, it is given up at once
    any other exception   nothing is kept, it is tried again by the policy
"""

import re
from datetime import timedelta

from outbox.errors import OutboxError

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
LONGEST_WAIT = timedelta(days=7)


class Retry(OutboxError):  # noqa: N818 - handlers raise an outcome, not an error
    """
    Try again no earlier than *after*, if attempts are left; without it, as the policy says.

    Raises ValueError unless *after* is positive and at most 7 days.
    """

    def __init__(self, *, after: timedelta | None = None) -> None:
        if after is not None and not timedelta(0) < after <= LONGEST_WAIT:
            raise ValueError("after: must be positive and at most 7 days")
        super().__init__("the handler asks for another attempt")
        self.after = after


class Reject(OutboxError):  # noqa: N818
    """
    Give the message up at once, for *reason*.

    The reason is shown to operators: a code such as `unknown_device`, and no health data.
    Raises ValueError unless it is lower-case words joined by underscores, at most 64 characters.
    """

    def __init__(self, reason: str) -> None:
        if not _CODE.fullmatch(reason):
            raise ValueError("reason: must be lower-case words joined by underscores")
        super().__init__(f"the handler rejects the message: {reason}")
        self.reason = reason
