"""
Runs a program that ends with its parent: `python -m outbox_demo.exit_with_parent PARENT MODULE …`.

On Linux the kernel kills the program when its parent ends, however it ends. On other systems the
program only runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: str, *program: str) -> None:
    """Become *program*, a module with its arguments, unless *parent* has ended already."""
    if sys.platform == "linux":
        # Kept across exec. A function that runs between fork and exec could do the same, but may
        # deadlock in a parent with threads.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            raise SystemExit(1)
    os.execv(sys.executable, [sys.executable, "-m", *program])  # noqa: S606 - our own modules


if __name__ == "__main__":
    main(*sys.argv[1:])
