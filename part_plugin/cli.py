"""The command `part-plugin`: what it answers to mistakes, and to being stopped, from its first moment on."""

from __future__ import annotations

import sys

from .stopping import exiting_when_stopped, stop_on_signals


def main() -> None:
    """Run the command: a mistake is one line and exit code 2; Ctrl-C and SIGTERM are one line, 130 and 143."""
    with exiting_when_stopped():
        stop_on_signals()
        try:
            from .commands import app  # which takes seconds

            app()
        except (ValueError, TypeError, KeyError, OSError, ImportError, NotImplementedError) as error:
            print(f"part-plugin: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
            sys.exit(2)
