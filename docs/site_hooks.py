"""Pages that show what the program says of itself, and diagrams that are drawn already.

- `<!-- commands -->` becomes the help of every command of `pgevents`.
- `<!-- tables -->` becomes the SQL of tables and indexes.
- A mermaid block becomes its drawing (see `draw_diagrams.py`), which needs neither a script nor a network.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.diagrams")
_spec = importlib.util.spec_from_file_location("draw_diagrams", Path(__file__).with_name("draw_diagrams.py"))
assert _spec is not None and _spec.loader is not None
diagrams = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(diagrams)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    for mark, make in (("<!-- commands -->", commands), ("<!-- tables -->", tables)):
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return diagrams.BLOCK.sub(lambda block: drawn(block, markdown, page.file.src_uri), markdown)


def drawn(block: re.Match[str], markdown: str, page: str) -> str:
    """The image of a diagram, with the heading above it for those who cannot see it."""
    file = diagrams.file_of(block.group(1))
    if not file.exists():
        log.warning("%s: a diagram is not drawn: run docs/draw_diagrams.py", page)
        return block.group()
    heading = re.findall("^#+ (.*)$", markdown[: block.start()], re.MULTILINE)[-1]
    return f"![Diagram: {heading}]({'../' * page.count('/')}diagrams/{file.name}){{ .diagram }}"


def commands() -> str:
    import click

    from pgevents.cli.commands import cli

    def helps(command: click.Command, context: click.Context) -> Iterator[str]:
        yield f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
        for name in command.list_commands(context) if isinstance(command, click.Group) else ():
            one = command.get_command(context, name)
            if one is not None and not one.hidden:
                inner = click.Context(
                    one, info_name=name, parent=context, max_content_width=88, terminal_width=88
                )
                yield from helps(one, inner)

    top = click.Context(cli, info_name="pgevents", max_content_width=88, terminal_width=88)
    return "\n".join(helps(cli, top))


def tables() -> str:
    from pgevents import create_events_table, create_projections_table
    from pgevents.store.triggers import log_guards

    events = create_events_table(schema="my_app", data_indexes=["cart_id"])
    views = create_projections_table(schema="my_app", data_indexes=["user_id"])
    log, snapshots = events.pgevents_spec, views.pgevents_spec
    statements = [*log.statements(), *log_guards(log).values(), *snapshots.statements()]
    return "```sql\n" + "\n".join(statements) + "```\n"
