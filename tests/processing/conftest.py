"""What tests of the processing side share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgevents import EventClient
from pgevents.caches import forget

from . import variants
from .steps import Shop


@pytest.fixture
def shop(client: EventClient, make_client: Callable[..., EventClient]) -> Shop:
    return Shop(client, make_client())


@pytest.fixture
def statements() -> Iterator[None]:
    """Statements that the test has changed are put back."""
    sections = variants.processing._sections
    yield
    variants.processing._sections = sections
    forget("statements of subscriptions")
