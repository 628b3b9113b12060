"""Draws the diagrams of the pages, so that they are seen without a script and without a network.

A page holds a diagram as a mermaid block. Its drawing is `docs/diagrams/<digest of the block>.svg`, and
`site_hooks.py` puts it into the page. After a block was changed, draw it by chromium, and commit the drawing:

    npm pack mermaid@11 && tar xzf mermaid-11.*.tgz package/dist/mermaid.min.js
    python docs/draw_diagrams.py package/dist/mermaid.min.js
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SETTINGS = {"startOnLoad": False, "theme": "neutral", "htmlLabels": False, "deterministicIds": True}
SETTINGS |= {"flowchart": {"htmlLabels": False}, "fontFamily": "Helvetica, Arial, sans-serif"}
PAGE = """\
<!doctype html><meta charset="utf-8"><body><script src="{script}"></script><script>
mermaid.initialize({settings});
mermaid.render("d", {source}).then(({{svg}}) => {{
  const drawing = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = new XMLSerializer().serializeToString(drawing);
  document.body.replaceChildren(result);
}});
</script>
"""


def file_of(source: str) -> Path:
    """Where the drawing of a block is."""
    return DOCS / "diagrams" / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.svg"


def draw(source: str, script: Path) -> str:
    """The block as SVG."""
    browser = (
        shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("chromium is not installed")
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(
            PAGE.format(
                script=script.resolve().as_uri(), settings=json.dumps(SETTINGS), source=json.dumps(source)
            )
        )
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
        command += [
            f"--user-data-dir={folder}/profile",
            "--virtual-time-budget=20000",
            "--dump-dom",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    if found is None:
        sys.exit(f"not drawn:\n{source}\n{done.stdout[-2000:]}{done.stderr[-500:]}")
    drawing = re.sub(r' data-[a-z-]+="[^"]*"', "", html.unescape(found.group(1)))
    drawing = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}", drawing)
    # As an image it has the size that it was drawn for, and no more than the page is wide.
    width, height = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', drawing).groups()  # type: ignore[union-attr]
    return re.sub(
        r'^<svg ([^>]*?)width="100%"', rf'<svg \1width="{width}" height="{height}"', drawing, count=1
    )


def main() -> None:
    """Draw what is missing, and remove drawings that no page has."""
    script = Path(sys.argv[1])
    sources = {source for page in DOCS.rglob("*.md") for source in BLOCK.findall(page.read_text())}
    (DOCS / "diagrams").mkdir(exist_ok=True)
    for drawing in set((DOCS / "diagrams").glob("*.svg")) - set(map(file_of, sources)):
        drawing.unlink()
    for source in sources:
        if not file_of(source).exists():
            file_of(source).write_text(draw(source, script))
            print(file_of(source))


if __name__ == "__main__":
    main()
