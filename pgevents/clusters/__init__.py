"""Rebuilding views on more than one machine: ranges of ids that the workers of a cluster fold side by side.

```python
from pgevents.clusters import Dask
from pgevents.subscriptions import rebuild

rebuild(client, CartProjection, engine=Dask("dask://scheduler:8786", credentials="SHOP_DATABASE_URL"))
```
"""

from pgevents.clusters.engine import Dask

__all__ = ["Dask"]
