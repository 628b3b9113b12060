"""Puts a local copy of the diagram script into the site, if there is one.

The theme loads mermaid.min.js from unpkg.com on pages with a diagram. For a site that draws without the internet:

    PGEVENTS_MERMAID=path/to/mermaid.min.js mkdocs build
"""

from __future__ import annotations

import os
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
