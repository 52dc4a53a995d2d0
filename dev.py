#!/usr/bin/env python3
"""The developers' command, with nothing but Python: `python3 dev.py demo | test | serve | bench | masks` (`--help` says more)."""
from __future__ import annotations

import sys

OLDEST_PYTHON = (3, 11)

if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"dev.py needs Python 3.11 or newer, this is {sys.version.split()[0]}: run it with a newer python3")
    from tools.dev.command_line import main

    sys.exit(main())
