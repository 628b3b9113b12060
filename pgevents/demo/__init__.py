"""`pgevents demo`: one day of a real shop's order lines, replayed into an event store, and checked to the
penny.

- `orders.py`: a CSV file to order lines; what cannot be one is kept with its reason
- `shop.py`: the shop's events, views and decisions
- `replay.py`: order lines to events, events to snapshots
- `race.py`: eight processes buy the last piece
- `audit.py`: what the CSV itself adds up to, computed without any of the above
- `report.py`: the figures from the views, compared with the audit
- `tour.py`: a cart whose total is wrong, and subscriptions at work, to be looked at in the browser
- `run.py`: all of it in order
- `screen.py`: how all of it looks in a terminal
"""

from importlib.resources import files
from pathlib import Path

__all__ = ["ATTRIBUTION", "ORDERS"]

ORDERS = Path(str(files(__name__) / "orders-2010-12-09.csv.gz"))
"""The order lines that are shipped: 9 December 2010."""

ATTRIBUTION = (
    "Order lines: Chen, D. (2015), Online Retail, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5BW33, licence CC BY 4.0 (the lines of one day)."
)
