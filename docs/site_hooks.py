"""Pages that show what the program says of itself, and diagrams without the internet.

- `<!-- commands -->` becomes the help of every command of `pgevents`.
- `<!-- tables -->` becomes the SQL of tables and indexes.
- The theme loads mermaid.min.js from unpkg.com on pages with a diagram. For a site that draws without the
  internet: `PGEVENTS_MERMAID=path/to/mermaid.min.js mkdocs build`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File


def on_config(config: Any) -> Any:
    if os.environ.get("PGEVENTS_MERMAID"):
        config["extra_javascript"].append("mermaid.min.js")
    return config


def on_files(files: Any, config: Any) -> Any:
    script = os.environ.get("PGEVENTS_MERMAID")
    if script:
        files.append(File.generated(config, "mermaid.min.js", abs_src_path=str(Path(script).resolve())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    for mark, make in (("<!-- commands -->", commands), ("<!-- tables -->", tables)):
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def commands() -> str:
    import click

    from pgevents.cli.commands import cli

    def helps(command: click.Command, context: click.Context) -> Iterator[str]:
        yield f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
        for name in command.list_commands(context) if isinstance(command, click.Group) else ():
            one = command.get_command(context, name)
            if one is not None and not one.hidden:
                inner = click.Context(
                    one, info_name=name, parent=context, max_content_width=100, terminal_width=100
                )
                yield from helps(one, inner)

    top = click.Context(cli, info_name="pgevents", max_content_width=100, terminal_width=100)
    return "\n".join(helps(cli, top))


def tables() -> str:
    from pgevents import create_events_table, create_projections_table

    events = create_events_table(schema="my_app", data_indexes=["cart_id"])
    views = create_projections_table(schema="my_app", data_indexes=["user_id"])
    specs = [events.pgevents_spec, views.pgevents_spec]
    statements = [statement for spec in specs for statement in (*spec.statements(), *spec.guards().values())]
    return "```sql\n" + "\n".join(statements) + "```\n"
