# SPDX-License-Identifier: Apache-2.0
"""What the script `hostreach` runs: from here on an interrupt is quiet, whatever is being loaded.

It imports nothing by itself, for what is loaded before it shows a traceback.
"""

__all__ = ["main"]


def main() -> int:
    """This process's command line; its exit status."""
    try:
        from hostreach.cli import main

        return main()
    except KeyboardInterrupt:
        return 128 + 2
