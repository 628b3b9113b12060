"""Whether snapshots of a projection are right: folded whole, and split through the table."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

from pgevents.errors import ConfigurationError
from pgevents.ids import id_text
from pgevents.views import first_difference

if TYPE_CHECKING:
    from pgevents.projections import MultiStreamProjectionBase, ProjectionBase

__all__ = ["check_projection"]


def check_projection(
    projection: ProjectionBase[Any, Any] | MultiStreamProjectionBase[Any, Any],
    *,
    splits: int = 20,
    seed: int = 0,
) -> int:
    """Check that a view folded on from any snapshot is the same as folded from the start.

    The projection's events are folded whole, and then in two parts, with a snapshot saved to the
    projections table and read back in between. It finds reducers that look at the clock or at what a
    snapshot does not hold, values that do not come back as they are, and states that are changed in
    place. All that it writes is rolled back.

    Args:
        projection: A projection with a client, of an id that has events.
        splits: At how many places, taken at random; if there are fewer events, at each of them.
        seed: Of the random places, so that a run can be repeated.

    Returns:
        How many events were folded.

    Raises:
        AssertionError: A view differs; the message names the place and the field.
        EventEncodeError: A view cannot be saved as a snapshot.
        ConfigurationError: There are no events, so that nothing could be checked.

    Example:
        ```python
        def test_snapshots_of_carts(client):
            client.save_events([CartCreated("c1", "u1"), ItemAddedToCart("c1", "p1", 2, 1999)])
            check_projection(CartProjection("c1", client))
        ```
    """
    checked: Any = projection
    client = checked.client
    if client is None:
        raise ConfigurationError(f"{_name_of(checked)} needs a client, whose table is used")
    client.check_installed()
    final = client.reader.read_final(checked.get_streams())
    if not final:
        raise ConfigurationError(f"{_name_of(checked)} has no events, so nothing was checked")
    events = list(final)
    whole = checked.fold_on(None, copy.deepcopy(events), final.position)
    places = list(range(1, len(events) + 1))
    if len(places) > splits:
        places = sorted(random.Random(seed).sample(places, splits))
    with client.db.atomic() as transaction:
        try:
            for place in places:
                _check_split(checked, events, place, final.position, whole)
        finally:
            transaction.rollback()
    return len(events)


def _check_split(projection: Any, events: list[Any], place: int, position: Any, whole: Any) -> None:
    client, key = projection.client, projection.snapshot_key()
    client.snapshots.delete(key.type, id_text(projection.id))
    first, rest = copy.deepcopy(events[:place]), copy.deepcopy(events[place:])
    client.save_snapshot(projection, projection.fold_on(None, first, position), first[-1].id, first)
    split = projection.fold_on(client.snapshots.note(key).row, rest, position)
    found = first_difference(whole, split)
    if found is not None:
        path, expected, seen = found
        raise AssertionError(
            f"{_name_of(projection)}, {path or 'as a whole'}: folded from the start it is {expected!r}, and "
            f"{seen!r} with a snapshot after event {first[-1].id}, number {place} of {len(events)}"
        )


def _name_of(projection: Any) -> str:
    return f"{type(projection).__name__}({projection.id!r})"
