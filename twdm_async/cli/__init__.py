"""The command ``twdm``. Needs the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from twdm_async.cli.root import run  # noqa: PLC0415 - so that a missing extra can be named
    except ModuleNotFoundError as error:
        sys.exit(f"twdm needs the package {error.name}; install it with: pip install 'twdm_async[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run())
