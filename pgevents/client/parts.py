"""What a client is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import peewee

from pgevents.client.standbys import Source, Standby, Standbys
from pgevents.codec.decoding import Decoder
from pgevents.codec.serialization import Serializer
from pgevents.deciding import Decider
from pgevents.encoding import EventEncoder
from pgevents.errors import NotInstalledError
from pgevents.events import Event
from pgevents.hooks.durability import AfterCommit
from pgevents.hooks.registry import Plugins
from pgevents.identifiers import Identifiers
from pgevents.saving import Saver
from pgevents.snapshots import Snapshots
from pgevents.store.append import Appender
from pgevents.store.checks import check_installed
from pgevents.store.processing import Statements
from pgevents.store.provenance import Log
from pgevents.store.read import Reader
from pgevents.store.session import Session
from pgevents.store.tables import EventsModel, ProjectionsModel
from pgevents.timers import Timers
from pgevents.type_registry import EventTypes

__all__ = ["ClientParts"]

R = TypeVar("R")


class ClientParts:
    """The parts of a client; each group of calls is a subclass, and `EventClient` is all of them."""

    final_wait: float = 10.0
    """Seconds that a final read waits for writers in flight before it names them and gives up."""

    def __init__(
        self,
        db: peewee.PostgresqlDatabase,
        events: type[EventsModel],
        projections: type[ProjectionsModel],
        types: EventTypes,
        read_from: Sequence[peewee.PostgresqlDatabase] = (),
    ) -> None:
        self.events = events
        self.projections = projections
        self.types = self._own_types = types
        self.serializer = Serializer()
        self.session = Session(db)
        self.decoder = Decoder(types, self.serializer)
        self.identifiers = Identifiers(self.serializer, types, events.pgevents_spec.lists)
        spec = events.pgevents_spec
        self._log = Log(spec.schema, spec.qualified(), self.session)
        self.reader = Reader(
            self.session, events.pgevents_spec, self.decoder, self.identifiers.check, log=self._log
        )
        self.appender = Appender(self.session, events.pgevents_spec)
        self.snapshots = Snapshots(self.session, projections, self.serializer, events.pgevents_spec)
        self.standbys = Standbys(self.session, [self._standby(Session(db)) for db in read_from])
        self.plugins = Plugins(self, lambda: self.types, self._use_plugins)
        self.saver = Saver(
            self.session,
            self.appender,
            self.reader,
            EventEncoder(self.serializer, self.decoder, types),
            self.plugins,
            AfterCommit(
                lambda: self.db, self.session.in_transaction, self.reader.ids_in_log, self._report_durable
            ),
            self.check_installed,
        )
        self.timers = Timers(self.saver, Statements(self.session, events.pgevents_spec))
        self.decider = Decider(self.session, self.saver, self.timers, self.plugins, self.check_installed)
        self._is_checked = False

    @property
    def db(self) -> peewee.PostgresqlDatabase:
        """The Peewee database; inside `joined()` that of the joined transaction."""
        return self.session.db

    def _standby(self, session: Session) -> Standby:
        spec = self.events.pgevents_spec
        return Standby(
            session,
            Reader(session, spec, self.decoder, self.identifiers.check, log=self._log),
            Snapshots(session, self.projections, self.serializer, spec),
        )

    def _shown(self, work: Callable[[Source], R]) -> R:
        """What a read gives that only shows something: by a standby, if there are any and no transaction
        expects to see its own writes."""
        return self.standbys.ask(work, self) if self._has_standby_now() else work(self)

    def _has_standby_now(self) -> bool:
        if not self.standbys.all:
            return False
        db: Any = self.db
        return db.is_closed() or not self.session.in_transaction()

    def _report_durable(self, saved: Sequence[Event[Any]]) -> None:
        self.plugins.notify("pgevents_after_commit", events=saved)

    def _use_plugins(self, hooks: frozenset[str]) -> None:
        """Take up what plugins bring; called when any come or go that implement one of these hooks."""
        plugins = self.plugins
        if "pgevents_configure_converter" in hooks:
            self.serializer.use(plugins.converter())
            self.identifiers.forget()
        if "pgevents_register_events" in hooks:
            self.types = self.saver.encoder.types = self._own_types.extended(plugins.event_classes())
            self.identifiers.types = self.types
            self.identifiers.forget()
        if "pgevents_hidden_fields" in hooks:
            self.identifiers.hidden = plugins.hidden_fields()
        is_changed = "pgevents_before_decode" in plugins.implemented
        self.decoder.use(self.types, plugins.before_decode if is_changed else None)
        for reader in (self.reader, *[standby.reader for standby in self.standbys.all]):
            reader.observe = plugins.observed if "pgevents_observe" in plugins.implemented else None

    def check_installed(self) -> None:
        """Check that tables and functions are there and sound: once, before the first save or final read.

        Raises:
            NotInstalledError: They are missing, or others than this client's.
            ConfigurationError: The sequence could give out ids twice or out of order.
        """
        if not self._is_checked:
            try:
                check_installed(self.session.execute, self.events.pgevents_spec)
            except NotInstalledError as error:
                if self.session.when_missing is None:
                    raise
                raise self.session.not_installed(
                    str(error).removesuffix(": run client.create_tables()")
                ) from error
            self._is_checked = True
