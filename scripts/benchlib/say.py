"""What is told while it runs, and how a run fails."""

import sys
import time

BEGAN = time.monotonic()


class Failed(Exception):
    """Ends the run: one line on stderr, exit code 1."""


def say(text):
    print(f"bench {time.monotonic() - BEGAN:4.0f} s: {text}", file=sys.stderr, flush=True)
