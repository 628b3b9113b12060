"""pgevents in a Flask app: a pooled connection per request, errors as responses, `flask pgevents` commands.

```python
from flask import Flask
from pgevents.flask import PgEvents, current_events

app = Flask(__name__)
app.config["PGEVENTS_DATABASE_URL"] = "postgresql://localhost/shop"
PgEvents(app)

@app.post("/carts/<cart_id>")
def open_cart(cart_id):
    saved = current_events.save_event({"type": "CART_OPENED", "data": {"cart_id": cart_id}})
    return {"event": saved.id}
```
"""

from pgevents.flask.context import current_events, get_or_404
from pgevents.flask.extension import PgEvents
from pgevents.flask.metadata import request_id
from pgevents.flask.pool import UnavailableError
from pgevents.flask.processing import health_blueprint
from pgevents.flask.tenants import TenantEvents

__all__ = [
    "PgEvents",
    "TenantEvents",
    "UnavailableError",
    "current_events",
    "get_or_404",
    "health_blueprint",
    "request_id",
]
