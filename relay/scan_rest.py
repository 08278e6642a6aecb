"""
How long the relay does without a scan of all ready rows: pure.
"""

SCAN_SHARE = 20
"""After a scan of all ready rows the next one waits for this many times its duration,"""
LONGEST_REST_SECONDS = 30.0
"""but no longer than this: a scan takes long while an old snapshot keeps deleted rows."""


def rest_after(seconds: float) -> float:
    """Seconds without a scan of all ready rows, after one that took so many *seconds*."""
    return min(SCAN_SHARE * seconds, LONGEST_REST_SECONDS)
