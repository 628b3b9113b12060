"""The log in the browser: a Flask blueprint to look at events, views and their history.

```python
from flask import Flask
from pgevents.browser import browser

app = Flask(__name__)
app.register_blueprint(browser(client, authorize=lambda: current_user.is_admin))
```
"""

from pgevents.browser.blueprint import browser
from pgevents.browser.standalone import make_app, serve

__all__ = ["browser", "make_app", "serve"]
