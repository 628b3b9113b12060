"""Subscriptions of a Flask app: `flask pgevents run`, and a blueprint for health probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import click
from flask import Blueprint, current_app
from flask.cli import with_appcontext

from pgevents.flask.context import active_store
from pgevents.subscriptions import Runner, check
from pgevents.subscriptions.subscription import declared

__all__ = ["health_blueprint", "run"]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker threads.")
@with_appcontext
def run(names: tuple[str, ...], workers: int) -> None:
    """Run subscriptions until SIGTERM or Ctrl-C.

    It runs the subscriptions with these names, or all @subscription functions that the app has imported.
    Start it as often as you like: the processes share the work.

    Kept views and Subscription classes need a Runner, which has context=app.app_context; it is run by:
    pgevents run MODULE:RUNNER
    """
    unknown = [name for name in names if name not in declared]
    if unknown or not declared:
        available = ", ".join(declared) or "none"
        what = f"no subscription {unknown[0]!r}" if unknown else "no subscription"
        is_runner = bool(unknown) and ":" in unknown[0]
        hint = f"; a Runner is run by: pgevents run {unknown[0]}" if is_runner else ""
        raise click.UsageError(f"the app has imported {what}; there are: {available}{hint}")
    app = cast(Any, current_app)._get_current_object()  # worker threads have no current app
    chosen = [declared[name] for name in names or declared]
    runner = Runner(active_store().client, chosen, context=app.app_context)
    click.echo(f"{', '.join(runner.names)}: {workers} workers; end with Ctrl-C", err=True)
    runner.run(workers, signals=True)


def health_blueprint(
    *, names: Sequence[str] | None = None, max_lag: float = 30.0, url: str = "/health"
) -> Blueprint:
    """A blueprint that answers probes: 200 if all is well with the subscriptions, else 503.

    Args:
        names: The subscriptions that must exist; by default all that exist are checked.
        max_lag: Seconds after which an event that is not handled is a problem.
        url: The path of the probe.

    Returns:
        The blueprint. Its response is `{"is_healthy": ..., "problems": [...]}`.

    Example:
        ```python
        from pgevents.flask import health_blueprint

        app.register_blueprint(health_blueprint(max_lag=60))
        ```
    """
    blueprint = Blueprint("pgevents_health", __name__)

    def health() -> tuple[dict[str, Any], int]:
        problems = check(active_store().client, names, max_lag=max_lag)
        return {"is_healthy": not problems, "problems": problems}, 503 if problems else 200

    blueprint.add_url_rule(url, "health", health)
    return blueprint
