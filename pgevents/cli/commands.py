"""The commands."""

from __future__ import annotations

from typing import NoReturn

import click

from pgevents.distribution import NAME

from .demo import demo
from .exchange import schema, views
from .exports import export_command
from .frame import EXIT_CODES, Commands, run
from .health import doctor, stats
from .imports import import_command
from .log import append, init, stream_command, tail
from .processing import COMMANDS
from .rebuilding import rebuild_command
from .store import store_options
from .tenants import tenants
from .timers import timers
from .ui import ui
from .views import diff, query, show

__all__ = ["run_command"]


@click.group(
    cls=Commands,
    help="An event store in PostgreSQL. Options of the store may stand before or after the command.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@store_options
@click.version_option(package_name=NAME, prog_name="pgevents")
def cli(**_: object) -> None:
    pass  # commands find the options in the context


for command in (
    init,
    append,
    tail,
    stream_command,
    show,
    query,
    diff,
    schema,
    views,
    import_command,
    export_command,
    stats,
    doctor,
    ui,
    rebuild_command,
    tenants,
    demo,
    timers,
    *COMMANDS,
):
    cli.add_command(command)


def run_command() -> NoReturn:
    """Run the command that was given."""
    run(cli)
