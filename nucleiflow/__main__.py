"""The command's first step: what takes longest begins before anything else is imported.

Workers that are forked import the file that the command began with: this one is light.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nucleiflow.errors import STOPPED

COMPUTING = {"run", "rerun", "demo"}
DECIDE_LATER = ("-h", "--help", "--cluster", "--workers")


def computes(words: Sequence[str]) -> bool:
    """Whether a command line will most likely want workers of this machine.

    If not, a process has begun to load for nobody; if a command does, and is not known here to,
    it asks for them itself, a moment later.
    """
    later = any(word.startswith(DECIDE_LATER) for word in words)
    return bool(words) and words[0] in COMPUTING and not later


def main() -> None:
    """Entry point of `nucleiflow`."""
    try:
        if computes(sys.argv[1:]):
            from nucleiflow import warm

            warm.up()
        from nucleiflow import cli
    except KeyboardInterrupt:  # nothing has begun: there is nothing to be said
        sys.exit(STOPPED)
    cli.main()


if __name__ == "__main__":
    main()
