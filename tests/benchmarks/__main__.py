"""The command: `python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from attrs import evolve

from pgevents.embedded import embedded_database

from .contenders import CONTENDERS
from .report import around_marks, markdown, plot, put_between_marks, summary
from .runner import run_all
from .workloads import QUICK, Scale

SUMMARY_PAGE, FIGURES_PAGE, PLOT = "performance.md", "performance-figures.md", "performance.svg"
"""In the folder of the documentation: the one table by contender, all tables, and the plot."""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--url", help="a server to measure on, as a superuser; default: an embedded one, durable"
    )
    parser.add_argument("--only", type=_words, default=[], help="numbers or keys of workloads: 1,2,7/1000")
    parser.add_argument("--contenders", type=_words, default=[], help=", ".join(CONTENDERS))
    parser.add_argument(
        "--quick", action="store_true", help="small and short: to see that it works, not how fast"
    )
    parser.add_argument("--rounds", type=int, help="slices of each contender")
    parser.add_argument("--seconds", type=float, help="length of a slice")
    parser.add_argument("--growth", type=_words, default=[], help="sizes of workload 14: 100000,1000000")
    parser.add_argument("--json", type=Path, help="file for all slices, written after each workload")
    parser.add_argument("--read", type=Path, help="do not measure: take the slices of this file")
    parser.add_argument(
        "--docs", type=Path, help=f"folder whose {SUMMARY_PAGE}, {FIGURES_PAGE} and {PLOT} are written anew"
    )
    options = parser.parse_args(given)
    for name in (SUMMARY_PAGE, FIGURES_PAGE) if options.docs else ():
        try:  # now, not after an hour of measuring
            around_marks(options.docs / name)
        except (OSError, ValueError) as error:
            parser.error(f"--docs: {error}")
    return options


def _scale(options: argparse.Namespace) -> Scale:
    changes: dict[str, Any] = {
        name: getattr(options, name) for name in ("rounds", "seconds") if getattr(options, name)
    }
    if options.growth:
        changes["growth"] = tuple(map(int, options.growth))
    return evolve(QUICK if options.quick else Scale(), **changes)


@contextmanager
def _embedded() -> Iterator[str]:
    with embedded_database(database="postgres", settings={"max_connections": "200"}) as server:
        yield server.url


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    options = _arguments(given)

    def keep(result: Mapping[str, Any]) -> None:
        if options.json:
            options.json.write_text(json.dumps(result), encoding="utf-8")

    if options.read:
        result = json.loads(options.read.read_text(encoding="utf-8"))
    else:
        with nullcontext(options.url) if options.url else _embedded() as url:
            result = run_all(
                url,
                _scale(options),
                options.only,
                options.contenders,
                say=lambda text: print(text, file=sys.stderr, flush=True),
                done=keep,
            )
    if not options.docs:
        print(markdown(result))
        return
    put_between_marks(options.docs / SUMMARY_PAGE, summary(result))
    put_between_marks(options.docs / FIGURES_PAGE, markdown(result))
    plot(result, options.docs / PLOT)


if __name__ == "__main__":
    main()
