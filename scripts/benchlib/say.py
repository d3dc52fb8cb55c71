"""What is told while it runs, and how a run fails."""

import sys


class Failed(Exception):
    """Ends the run: one line on stderr, exit code 1."""


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)
