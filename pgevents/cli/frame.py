"""What all commands share: errors in one line, exit codes, and arguments that are text."""

from __future__ import annotations

import json
import sys
import zlib
from datetime import datetime, timezone
from typing import Any, NoReturn

import click
import peewee

from pgevents.distribution import install_hint
from pgevents.errors import PgEventsError

__all__ = ["EXIT_CODES", "MAX_ID", "Commands", "fail", "parse_json", "parse_time", "run", "whole"]

EXIT_CODES = """\
Exit codes: 0 all is well; 1 something failed, a line of a file was refused, or a check did not hold; 2 the \
command, an option or the form of a file was not understood; 130 interrupted.
"""
INTERRUPTED = 130
MAX_ID = 2**63 - 1


def whole(least: int) -> dict[str, Any]:
    """The settings of an option that takes a whole number as PostgreSQL's bigint holds it: an id, a limit."""

    def check(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
        if value is not None and not least <= value <= MAX_ID:
            raise click.BadParameter(f"{value} is not a whole number from {least} to {MAX_ID}")
        return value

    return {"type": int, "callback": check}


class Commands(click.Group):
    """A group that reports what PostgreSQL and pgevents refused in one line, without a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            if "\0" in argument or not argument.isprintable() and _is_broken(argument):
                raise click.UsageError(f"the argument {argument!r} is not UTF-8 text")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from pgevents.embedded import EmbeddedServerError

        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.name != "rich":
                raise
            fail(f"rich is missing; it is an extra: {install_hint('cli')}")
        except BrokenPipeError:
            raise
        except (
            PgEventsError,
            peewee.PeeweeException,
            EmbeddedServerError,
            OSError,
            EOFError,
            zlib.error,
        ) as error:
            fail(str(error) or type(error).__name__)


def _is_broken(text: str) -> bool:
    """Whether it holds bytes of the command line that are not UTF-8 (surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def run(cli: click.Group) -> NoReturn:
    """Run the command that was given; errors are one line on the standard error."""
    for file in (sys.stdout, sys.stderr):
        file.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.Abort:
        click.echo("pgevents: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            click.echo(f"pgevents: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)


def fail(message: str) -> NoReturn:
    """End with one line and exit code 1."""
    raise click.ClickException(message)


def parse_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object that was given on the command line."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.UsageError(f'{what} is a JSON object, as in \'{{"cart_id": "c1"}}\'')
    return value  # pyright: ignore[reportUnknownVariableType]


def parse_time(text: str) -> datetime:
    """A time with its time zone, in UTC.

    Raises:
        ValueError: It is not one; the message says why.
    """
    try:
        when = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)
        if when.tzinfo is None:
            raise ValueError(f"{text} has no time zone; write it as in 2026-01-31T12:00:00+00:00")
        return when.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError(f"{text} lies outside the years 1 to 9999") from None
