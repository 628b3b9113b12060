"""The `pgevents` command; its options stand in `pgevents --help`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from pgevents.cli.commands import run_command
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        from pgevents.distribution import install_hint

        sys.exit(f"pgevents: {error.name} is missing; the command line is an extra: {install_hint('cli')}")
    run_command()
