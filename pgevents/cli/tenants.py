"""The commands `tenants list|add|move|recover`."""

from __future__ import annotations

import json
from typing import Any

import click
from attrs import asdict

from pgevents.tenants import Tenant, Tenants

from .application import load_tenants
from .frame import EXIT_CODES
from .show import show_json
from .store import Store

__all__ = ["tenants"]


@click.group(epilog=EXIT_CODES)
def tenants() -> None:
    """Which tenants there are and on which server; --app names the program's Tenants."""


def _of(store: Store) -> Tenants:
    if store.app is None:
        raise click.UsageError("which tenants? --app MODULE:NAME of your program's Tenants")
    return load_tenants(store.app)


def _show(store: Store, found: list[Tenant]) -> None:
    for tenant in found:
        if store.as_json:
            show_json(asdict(tenant))
            continue
        going = f", being moved to {tenant.moving_to}" if tenant.moving_to else ""
        click.echo(f"{tenant.name}  {tenant.node}  since {tenant.since:%Y-%m-%d %H:%M:%S}{going}")


@tenants.command("list", help="List the tenants.", epilog=EXIT_CODES)
@Store.options
def list_command(**options: Any) -> None:
    store = Store(**options)
    _show(store, _of(store).list())


@tenants.command(help="Make the tables of a new tenant, and of the directory if need be.", epilog=EXIT_CODES)
@click.argument("name")
@click.option("--node", help="The server; by default the one with the fewest tenants.")
@Store.options
def add(name: str, node: str | None, **options: Any) -> None:
    store = Store(**options)
    found = _of(store)
    found.create_tables()
    _show(store, [found.add(name, node)])


@tenants.command(help="Move a tenant to another server, while it is in use.", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("node")
@Store.options
def move(name: str, node: str, **options: Any) -> None:
    store = Store(**options)
    moved = _of(store).move(name, to=node)
    if store.as_json:
        show_json(asdict(moved))
        return
    click.echo(
        f"{moved.tenant} has moved from {moved.source} to {moved.target}: {sum(moved.rows.values()):,} rows "
        f"in {moved.seconds:.1f} s, of which it took no saves for {1000 * moved.stood:.0f} ms."
    )


@tenants.command(help="Finish an interrupted move of a tenant.", epilog=EXIT_CODES)
@click.argument("name")
@Store.options
def recover(name: str, **options: Any) -> None:
    store = Store(**options)
    has_moved = _of(store).recover(name)
    words = {None: "no move was interrupted", True: "it has moved", False: "it stays where it was"}
    click.echo(json.dumps({"moved": has_moved}) if store.as_json else f"{name}: {words[has_moved]}.")
