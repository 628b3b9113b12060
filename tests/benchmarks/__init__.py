"""What pgevents costs, against the least that PostgreSQL needs and against the package that one would take
instead.

Run from the top of the repository: `python -m tests.benchmarks --help`; `docs/performance.md` explains the
    figures.
"""
