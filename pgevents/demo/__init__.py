"""`pgevents demo`: one day of a real shop's order lines, replayed into an event store, and checked to the
penny.

- `orders.py`: reads order lines from a CSV file; skipped lines are listed with the reason
- `shop.py`: the shop's events, views and decisions
- `replay.py`: saves order lines as events, and snapshots
- `race.py`: eight processes buy the last piece
- `audit.py`: adds up the CSV itself, without any of the above
- `report.py`: compares the figures of the views with the audit
- `tour.py`: a cart with a wrong total, and running subscriptions, for a tour of the browser
- `run.py`: runs all steps in order
- `screen.py`: shows progress and results in a terminal
"""

from importlib.resources import files
from pathlib import Path

__all__ = ["ATTRIBUTION", "ORDERS"]

ORDERS = Path(str(files(__name__) / "orders-2010-12-09.csv.gz"))
"""The order lines that come with the package: those of 9 December 2010."""

ATTRIBUTION = (
    "Order lines: Chen, D. (2015), Online Retail, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5BW33, licence CC BY 4.0 (the lines of one day)."
)
