"""
Ties a program to the life of its parent: `python -m outbox_demo.leash PARENT MODULE ARGS`.

On Linux the kernel then kills it with its parent, however that ends. Elsewhere it only runs it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: str, *program: str) -> None:
    """Become *program*, a module with its arguments, unless *parent* has ended already."""
    if sys.platform == "linux":
        # Kept across exec. A function to run between fork and exec could do the same, and
        # deadlock in a parent with threads.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            raise SystemExit(1)
    os.execv(sys.executable, [sys.executable, "-m", *program])  # noqa: S606 - our own modules


if __name__ == "__main__":
    main(*sys.argv[1:])
