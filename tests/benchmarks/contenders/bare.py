"""pgevents' functions, and around them as little Python as makes JSON of an event and an event of the answer.

It knows beforehand what it is going to save and to ask, and keeps one cursor; neither streams nor hooks nor
errors are looked at. What pgevents itself needs beyond that is the price of all that it can do besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pgevents import Event, EventStream, stream
from pgevents.codec import fast
from pgevents.codec.decoding import rows_of
from pgevents.events import make_event
from pgevents.store.append import answer_of
from pgevents.store.ordering import Position

from ...shop import CartEvent
from ..carts import Sample
from .functions import APPEND, APPEND_ABOVE, APPEND_MANY, FETCH, sql_types
from .ours import PgEvents

__all__ = ["Bare"]


class Bare(PgEvents):
    """The functions, and little Python around them."""

    def open(self) -> None:
        super().open()
        self.cursor = self.client.session.connection().cursor()
        self.types = sql_types(self.shop)
        self.streams = (stream(CartEvent, cart_id="any"),)
        self.write: dict[type[Any], Callable[[Any], str | None]] = {
            cls: fast.writer(cls) for cls in self.shop.classes.values()
        }

    def save(self, sample: Sample) -> None:
        data = sample.event
        self.cursor.execute(APPEND, (sample.type, self.write[data.__class__](data)))
        self._saved(sample.type, data)

    def save_validated(self, sample: Sample) -> None:
        data, cart, shop = sample.event, sample.cart, self.shop
        asked = [
            stream([shop.created, shop.checked_out], cart_id=cart),
            stream([shop.added, shop.removed], cart_id=cart),
        ]
        ((_, (value,)),) = asked[0].match
        assert data.cart_id == value
        text = self.write[data.__class__](data)
        types = ",".join(sorted(shop.classes))
        condition = (f"{{cart_id,{value},{types}}}", f"{{{self.last.get(cart, 0)},0,0}}")
        self.cursor.execute(APPEND_ABOVE, (sample.type, text, *condition))
        self.last[cart] = self._saved(sample.type, data).id

    def _saved(self, name: str, data: Any) -> Event[Any]:
        answer = answer_of(self.cursor.fetchone()[0])
        assert answer.created_at is not None
        return make_event(answer.ids[0], name, data, {}, answer.created_at)

    def save_batch(self, samples: Sequence[Sample]) -> list[Event[Any]]:  # type: ignore[override]
        names = ",".join([one.type for one in samples])
        lines = "\n".join([self.write[one.event.__class__](one.event) or "" for one in samples])
        self.cursor.execute(APPEND_MANY, (f"{{{names}}}", lines))
        answer = answer_of(self.cursor.fetchone()[0])
        at = answer.created_at
        assert at is not None
        pairs = zip(answer.ids, samples, strict=True)
        return [make_event(event_id, one.type, one.event, {}, at) for event_id, one in pairs]

    def read(self, cart: str) -> EventStream[Any]:
        self.cursor.execute(FETCH, (cart, self.types))
        events = self.client.decoder.events(rows_of(self.cursor.fetchone()[0]))
        return EventStream(events, partial(Position, events[-1].id, 0, len(events), self.streams))
