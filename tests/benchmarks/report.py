"""Slices to medians and ratios, as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from attrs import frozen

from .workloads import PEERS, Goal, Scale, Workload, workloads

__all__ = ["around_marks", "markdown", "plot", "put_between_marks", "summary"]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@frozen
class Ratio:
    """A rate against another of the same rounds: the median, the least and the greatest."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        spread = "" if self.least == self.most else f" ({self.least:.2f}–{self.most:.2f})"
        return f"{self.middle:.2f}{spread}"


class Figures:
    """The slices of one workload."""

    def __init__(self, workload: Workload, slices: Sequence[Mapping[str, Any]]) -> None:
        self.workload = workload
        self.slices: dict[str, list[Mapping[str, Any]]] = {}
        for one in slices:
            self.slices.setdefault(one["label"], []).append(one)

    def rate(self, label: str) -> float:
        """Units a second, the median of the rounds."""
        return float(median(one["rate"] for one in self.slices[label]))

    def fastest(self, labels: Sequence[str]) -> str | None:
        """Which of them it is; None if none has run."""
        return max((label for label in labels if label in self.slices), key=self.rate, default=None)

    def ratio(self, label: str, other: str | None) -> Ratio | None:
        """One against another, round by round."""
        if other is None or label not in self.slices:
            return None
        by_round = {one["round"]: one["rate"] for one in self.slices[other]}
        found = [
            one["rate"] / by_round[one["round"]] for one in self.slices[label] if by_round.get(one["round"])
        ]
        return Ratio(median(found), min(found), max(found)) if found else None

    def to(self, label: str, others: Sequence[str]) -> Ratio | None:
        """Against the fastest of others; in a workload of several sizes, of the same size."""
        size = label[label.index(" at ") :] if " at " in label else ""
        return self.ratio(label, self.fastest([other + size for other in others]))

    def reached(self, goal: Goal) -> Ratio | None:
        """What a goal asks for; None if it has not run."""
        if goal.of:
            return self.ratio(goal.label, self.fastest(goal.of))
        if goal.label not in self.slices:
            return None
        rates = [one["rate"] for one in self.slices[goal.label]]
        return Ratio(median(rates), min(rates), max(rates))

    def each(self, label: str, field: str) -> float | None:
        """Microseconds of a field for one unit, the median of the rounds."""
        found = [
            one[field] / sum(one["units"]) * 1e6
            for one in self.slices[label]
            if one[field] is not None and sum(one["units"])
        ]
        return median(found) if found else None


def _figures(result: Mapping[str, Any]) -> Iterator[Figures]:
    by_key = {one.key: one for one in workloads(Scale(**result["about"]["scale"]))}
    for key, found in result["workloads"].items():
        yield Figures(by_key[key], found["slices"])


def markdown(result: Mapping[str, Any]) -> str:
    """All tables: each workload, and at the end the goals of the project."""
    lines = [_about(result), ""]
    if result["about"]["scale"]["seconds"] < 1:
        lines += ["A quick run: it shows that everything works, and says nothing of speed.", ""]
    if result["about"]["peer_missing"]:
        lines += [f"The peer did not run: {result['about']['peer_missing']}.", ""]
    figures = list(_figures(result))
    for one in figures:
        lines += [*_table(one), ""]
    return "\n".join([*lines, *_goals(figures)]) + "\n"


def _about(result: Mapping[str, Any]) -> str:
    """What was measured, when, and where."""
    about, scale = result["about"], result["about"]["scale"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    server = about["server"]
    settings = ", ".join(f"{name} {value}" for name, value in server.items() if name != "server_version")
    commit = f"Commit {about['commit']}, {about['date']}. " if about.get("commit") else ""
    return (
        f"{commit}PostgreSQL {server['server_version']} ({settings}); "
        f"Python {about['python']} on {about['system']}, "
        f"{about['processors']} processors for clients and server together; {packages}. "
        f"{scale['rounds']} rounds of {scale['seconds']:g} s for each contender."
    )


def _goals(figures: Sequence[Figures]) -> Iterator[str]:
    yield "**Goals that the project has set itself**"
    yield ""
    yield "| workload | whose | against | goal | reached | |"
    yield "|---|---|---|--:|--:|---|"
    for one in figures:
        for goal in one.workload.goals:
            ratio = one.reached(goal)
            if ratio is not None:
                yield (
                    f"| {one.workload.key} {one.workload.title} | {goal.label} | {goal.what} | "
                    f"{_number(goal.floor)} | {ratio if goal.of else _number(ratio.middle)} | "
                    f"{'met' if ratio.middle >= goal.floor else '**not met**'} |"
                )


SUMMARY = ("1", "2", "3", "4", "6/8", "7/1000", "8", "9")
ORDER = ("limit", "check", "functions", "bare client", "pgevents", "pgevents final", "dcb", "classic")


def summary(result: Mapping[str, Any]) -> str:
    """One table by contender: operations a second in the workloads that say most."""
    figures = {one.workload.key: one for one in _figures(result)}
    keys = [key for key in SUMMARY if key in figures]
    lines = [f"| contender | {' | '.join(keys)} |", "|---|" + "--:|" * len(keys)]
    for label in ORDER:
        rates = [_number(figures[key].rate(label)) if label in figures[key].slices else "" for key in keys]
        if any(rates):
            lines.append(f"| {f'**{label}**' if label == 'pgevents' else label} | {' | '.join(rates)} |")
    lines += ["", "| | what is done |", "|---|---|"]
    lines += [f"| {key} | {figures[key].workload.title} |" for key in keys]
    return "\n".join([*lines, "", _about(result)]) + "\n"


def _place(label: str) -> tuple[int, str]:
    """The order of contenders in a table: as in the summary, others behind them; then by size."""
    name, _, size = label.partition(" at ")
    return ORDER.index(name) if name in ORDER else len(ORDER), f"{name} {size:>20}"


def _table(figures: Figures) -> Iterator[str]:
    workload = figures.workload
    decides = workload.key.startswith("6/")
    yield f"**{workload.key}: {workload.title}**"
    yield ""
    yield (
        f"| contender | {workload.unit} a second | to the limit | to the better peer | client CPU, µs each | "
        "server CPU, µs each | peak memory, MB |"
        + (" tries each | least–most of a process |" if decides else "")
    )
    yield "|---|--:|--:|--:|--:|--:|--:|" + ("--:|--:|" if decides else "")
    for label in sorted(figures.slices, key=_place):
        slices = figures.slices[label]
        row = [
            label,
            _number(figures.rate(label)),
            _text(figures.to(label, workload.limits)),
            _text(figures.to(label, PEERS)),
            _number(figures.each(label, "client_cpu")),
            _number(figures.each(label, "server_cpu")),
            _number(max(one["peak_mb"] for one in slices)),
        ]
        if decides:
            done, tries, failed = (sum(found) for found in zip(*map(_decided, slices), strict=True))
            least, most = (median(pick(one["units"]) for one in slices) for pick in (min, max))
            row += [
                f"{tries / max(done, 1):.2f}" + (f" ({failed} given up)" if failed else ""),
                f"{_number(least)}–{_number(most)}",
            ]
        yield "| " + " | ".join(row) + " |"


def _decided(one: Mapping[str, Any]) -> tuple[int, int, int]:
    return sum(one["units"]), one["tries"], one["failed"]


def _text(ratio: Ratio | None) -> str:
    return "" if ratio is None else str(ratio)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def around_marks(path: Path) -> tuple[str, str]:
    """What stands before the two marks of a page, and after them.

    Raises:
        OSError: The page cannot be read.
        ValueError: It has no such marks.
    """
    head, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END} to put the figures between")
    return head, tail


def put_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a page; errors as for `around_marks`."""
    head, tail = around_marks(path)
    path.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Bars of the ratios to the limit: pgevents and the better peer, workload by workload.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows: list[tuple[str, float, float | None]] = []
    for one in _figures(result):
        ours = one.to("pgevents", one.workload.limits)
        if ours is not None:
            best = one.fastest(PEERS)
            theirs = one.to(best, one.workload.limits) if best else None
            rows.append(
                (f"{one.workload.key}  {one.workload.title}", ours.middle, theirs.middle if theirs else None)
            )
    rows.reverse()
    figure = Figure(figsize=(9, 1 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh([at + 0.2 for at in places], [row[1] for row in rows], 0.38, color="#336791", label="pgevents")
    axes.barh(
        [at - 0.2 for at in places],
        [row[2] or 0 for row in rows],
        0.38,
        color="#c9a227",
        label="eventsourcing",
    )
    axes.axvline(1, color="#555555", linewidth=1)
    axes.set_yticks(list(places), [row[0] for row in rows])
    axes.set_xlabel("rate against the least SQL, in the same rounds")
    axes.margins(y=0.01)
    figure.legend(loc="outside upper right", frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
