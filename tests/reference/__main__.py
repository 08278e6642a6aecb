"""
Write the generated sections of the reference pages, or name the pages that are stale.
"""

import argparse
import sys

from tests.reference.pages import COMMAND, rendered, stale
from tests.reference.source import REPOSITORY


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write no page; exit with 1 if stale")
    options = parser.parse_args()
    pages = stale()
    for page in pages:
        path = page.relative_to(REPOSITORY)
        if options.check:
            print(f"{path} is stale; run: {COMMAND}")
        else:
            page.write_text(rendered(page.read_text()))
            print(f"wrote {path}")
    return 1 if options.check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
