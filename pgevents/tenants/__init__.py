"""Tenants across servers: each is a schema on an ordinary PostgreSQL server, and a directory says on which.

The promises of one log hold for each tenant. There is no order and no transaction across tenants.
"""

from pgevents.tenants.directory import Tenant
from pgevents.tenants.moving import Moved
from pgevents.tenants.tenants import Tenants

__all__ = ["Moved", "Tenant", "Tenants"]
