"""Registration: what is wrong with a plugin is said there, with the nearest right name."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from cattrs import Converter

from pgevents import ConfigurationError, Event, EventClient, PluginError, event, hookimpl

from .conftest import shop_client
from .shop import CartCreated


class Silent:
    """A plugin that does nothing, well."""

    @hookimpl
    def pgevents_after_commit(self) -> None:
        """Nothing."""


@pytest.fixture
def unconnected() -> EventClient:
    """A client of a database that is not there: registration needs none."""
    return shop_client("postgresql://nobody@localhost:1/nowhere")


def plugin(**members: Any) -> Any:
    """An instance of a class `Plugin` with these members."""
    return type("Plugin", (), members)()


@hookimpl
def pgevents_after_comit(self: Any) -> None: ...


@hookimpl
def takes_nothing(self: Any) -> None: ...


@hookimpl
def takes_event(self: Any, event: Any) -> None: ...


@hookimpl
def takes_keyword(self: Any, *, events: Any) -> None: ...


@hookimpl
def takes_default(self: Any, events: Any = None) -> None: ...


@hookimpl
def takes_anything(self: Any, **arguments: Any) -> None: ...


@hookimpl
def yields(self: Any) -> Generator[None, None, None]:
    yield


@hookimpl
async def waits(self: Any) -> None: ...


def unmarked() -> Any:
    """A new function without the mark, for the mark changes what it is put on."""

    def function(self: Any, events: Any) -> None: ...

    return function


MISTAKES: list[tuple[Any, str]] = [
    (Silent, r"Silent is a class; register an instance of it: Silent\(\.\.\.\)"),
    ("auto-matic", "'auto-matic' is a text; a plugin is an instance or a module"),
    (
        plugin(pgevents_after_comit=pgevents_after_comit),
        "Plugin.pgevents_after_comit.*did you mean pgevents_after_commit?",
    ),
    (plugin(pgevent_before_save=unmarked()), "did you mean pgevents_before_save?"),
    (
        plugin(before_save=takes_nothing),
        "before_save is not a hook of pgevents; did you mean pgevents_before_save?",
    ),
    (
        plugin(pgevents_after_save=unmarked()),
        "named like a hook and lacks its mark: put @pgevents.hookimpl above it",
    ),
    (
        plugin(pgevents_after_save=takes_event),
        "asks for 'event', pgevents_after_save offers client, events; did you mean 'events'?",
    ),
    (plugin(pgevents_after_save=takes_keyword), "takes 'events' by keyword only"),
    (plugin(pgevents_after_save=takes_default), "'events' has a default, so pluggy never passes it"),
    (plugin(pgevents_after_save=takes_anything), r"takes \*\*arguments; name the arguments"),
    (plugin(pgevents_after_save=yields), r"calling it would run nothing; mark it @hookimpl\(wrapper=True\)"),
    (plugin(pgevents_after_save=waits), "is async; hooks are plain functions"),
    (
        plugin(pgevents_after_save=hookimpl(wrapper=True)(unmarked())),
        "marked as a wrapper and does not yield",
    ),
    (plugin(pgevents_after_save=hookimpl(hookwrapper=True)(unmarked())), "old-style wrapper"),
    (plugin(pgevents_registered=hookimpl(wrapper=True)(lambda self: (yield))), "takes no wrapper"),
    (
        plugin(anything=hookimpl(specname="pgevents_aftersave")(unmarked())),
        "did you mean pgevents_after_save?",
    ),
    (plugin(helper=unmarked()), "implements no hook; the hooks are pgevents_registered, "),
    (object(), "implements no hook"),
    (None, "implements no hook"),
]


@pytest.mark.parametrize(("mistaken", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_is_named_at_registration(unconnected: EventClient, mistaken: Any, message: str) -> None:
    """The error says what to mend, and nothing is registered."""
    with pytest.raises(PluginError, match=message):
        unconnected.plugins.register(mistaken)
    assert len(unconnected.plugins) == 0 and not unconnected.plugins.implemented


def test_what_does_no_harm_is_no_mistake(unconnected: EventClient) -> None:
    """Constants, properties, helpers, hooks of a later version (`optionalhook`) and other names
    (`specname`)."""

    class Plugin(Silent):
        pgevents_setting = "x"

        @property
        def pgevents_client(self) -> Any:
            raise AssertionError("not looked at")

        @hookimpl(optionalhook=True)
        def pgevents_of_tomorrow(self) -> None: ...

        @hookimpl(specname="pgevents_after_save")
        def remember(self, events: Any) -> None: ...

    unconnected.plugins.register(Plugin())
    assert unconnected.plugins.implemented == {"pgevents_after_commit", "pgevents_after_save"}


def test_modules_and_instances_are_plugins(unconnected: EventClient) -> None:
    """They are named after the module or class, with a number for the second of a kind."""
    module = types.ModuleType("shop.announcements")
    module.pgevents_after_commit = hookimpl(lambda events: None)  # type: ignore[attr-defined]
    silent, second = Silent(), Silent()
    plugins = unconnected.plugins
    assert [plugins.register(one) for one in (silent, second, module)] == [
        "Silent",
        "Silent-2",
        "announcements",
    ]
    assert plugins.register(Silent(), "quiet") == "quiet"
    assert list(plugins.list()) == ["Silent", "Silent-2", "announcements", "quiet"]
    assert list(plugins)[:2] == [silent, second] and plugins.get("Silent") is silent
    assert silent in plugins and "quiet" in plugins and "loud" not in plugins


def test_a_plugin_is_registered_once(unconnected: EventClient) -> None:
    """The same object, or a name that is taken."""
    silent = Silent()
    unconnected.plugins.register(silent)
    with pytest.raises(PluginError, match="already registered"):
        unconnected.plugins.register(silent)
    with pytest.raises(PluginError, match="already registered"):
        unconnected.plugins.register(Silent(), "Silent")


def test_plugins_are_given_as_a_list() -> None:
    """A plugin by itself, or another text than "auto", is an error that says so."""
    for given in (Silent(), "all", None):
        with pytest.raises(ConfigurationError, match='plugins is a list of plugins, or "auto"'):
            shop_client("postgresql://nobody@localhost:1/nowhere", plugins=given)


def test_an_unregistered_plugin_is_not_called_any_more(make_client: Callable[..., EventClient]) -> None:
    """By itself or by name; a commit that is still to come is not told to it either."""
    seen: list[int] = []

    class Told:
        @hookimpl
        def pgevents_after_commit(self, events: Any) -> None:
            seen.append(events[0].id)

    told = Told()
    client = make_client(plugins=[told])
    client.create_tables()
    with client.db.atomic():
        client.save_event(CartCreated("c1", "u1"))
        client.plugins.unregister(told)
    client.plugins.register(told)
    client.plugins.unregister("Told")
    client.save_event(CartCreated("c2", "u1"))
    assert seen == [] and not client.plugins.implemented
    with pytest.raises(PluginError, match="'Told' is not registered; these are: none"):
        client.plugins.unregister("Told")


@attrs.frozen
class Money:
    amount: Decimal
    currency: str


@event("PAID", version=2, upcasters={1: lambda data: {**data, "price": data["price"] + " GBP"}})
class Paid:
    cart_id: str
    price: Money


class Payments:
    """Brings an event, the past of its shape, and a type of its own."""

    @hookimpl
    def pgevents_register_events(self) -> list[type[Any]]:
        return [Paid]

    @hookimpl
    def pgevents_configure_converter(self, converter: Converter) -> None:
        converter.register_unstructure_hook(Money, lambda money: f"{money.amount} {money.currency}")
        converter.register_structure_hook(
            Money, lambda text, _: Money(Decimal(text.split()[0]), text.split()[1])
        )


def test_a_plugin_brings_types_upcasters_and_converters(make_client: Callable[..., EventClient]) -> None:
    """Its events are saved and read as instances while it is registered, and are dicts when it is gone."""
    bare = make_client()
    bare.create_tables()
    bare.save_event({"type": "PAID", "data": {"cart_id": "c1", "price": "3.50"}})
    client = make_client(plugins=[Payments(), Silent()])
    new = client.save_event(Paid("c1", Money(Decimal("4.20"), "EUR")))
    assert [one.data.price.currency for one in client.get_event_stream(Paid, cart_id="c1")] == ["GBP", "EUR"]
    client.plugins.unregister("Silent")
    assert client.get_latest_event(Paid) == new
    client.plugins.unregister("Payments")
    assert client.get_latest_event("PAID").data == {"cart_id": "c1", "price": "4.20 EUR"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "hook",
    [
        "pgevents_registered",
        "pgevents_register_events",
        "pgevents_configure_converter",
        "pgevents_hidden_fields",
    ],
)
def test_a_plugin_that_refuses_leaves_no_trace(make_client: Callable[..., EventClient], hook: str) -> None:
    """An error in a hook of registration ends it, and what was registered before works on."""

    def refuse(self: object) -> None:
        raise LookupError("not here")

    client = make_client(plugins=[Payments()])
    client.create_tables()
    converter = client.serializer.converter
    refusing = type("Refusing", (Silent,), {hook: hookimpl(refuse)})()
    with pytest.raises(LookupError, match="not here"):
        client.plugins.register(refusing)
    assert list(client.plugins.list()) == ["Payments"]
    assert client.plugins.implemented == {"pgevents_register_events", "pgevents_configure_converter"}
    saved: Event[Paid] = client.save_event(Paid("c1", Money(Decimal(1), "EUR")))
    assert client.get_latest_event(Paid) == saved
    assert type(client.serializer.converter) is type(converter)


def test_what_hidden_fields_returns_is_checked(make_client: Callable[..., EventClient]) -> None:
    """A list of names says nothing about which events have them."""

    class Lists:
        @hookimpl
        def pgevents_hidden_fields(self) -> Any:
            return ["email"]

    with pytest.raises(PluginError, match="Lists: pgevents_hidden_fields returns a mapping"):
        make_client(plugins=[Lists()])


# -- installed packages ------------------------------------------------------------


MODULE = """
from pgevents import hookimpl

class Audit:
    @hookimpl
    def pgevents_after_commit(self, events): ...

class Demanding(Audit):
    def __init__(self, setting): ...

class Mistaken:
    @hookimpl
    def pgevents_after_comit(self, events): ...

audit = Audit()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package `acme-audit` that offers these entry points, without an installer."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_audit", raising=False)

    def made(**points: str) -> None:
        (tmp_path / "acme_audit.py").write_text(MODULE)
        dist = tmp_path / "acme_audit-1.0.dist-info"
        dist.mkdir()
        (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-audit\nVersion: 1.0\n")
        lines = [f"{name} = acme_audit:{target}" for name, target in points.items()]
        (dist / "entry_points.txt").write_text("\n".join(["[pgevents]", *lines]))

    return made


def names(**options: Any) -> list[str]:
    return list(shop_client("postgresql://nobody@localhost:1/nowhere", **options).plugins.list())


def test_installed_packages_are_found_when_asked_for(install: Callable[..., None]) -> None:
    """An instance, or a class that is made without arguments; alone or beside plugins of one's own."""
    install(one="audit", two="Audit")
    assert names() == []
    assert names(plugins="auto") == ["one", "two"]
    assert names(plugins=[Silent(), "auto"]) == ["Silent", "one", "two"]


def test_installed_packages_can_be_switched_off(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name or all of them, without touching the program."""
    install(one="audit", two="Audit")
    monkeypatch.setenv("PGEVENTS_PLUGINS_OFF", "two, three")
    assert names(plugins="auto") == ["one"]
    monkeypatch.setenv("PGEVENTS_PLUGINS_OFF", "*")
    assert names(plugins=["auto", Silent()]) == ["Silent"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing", "no attribute 'missing'"),
        ("Demanding", "setting"),
        ("Mistaken", "did you mean pgevents_after_commit"),
    ],
)
def test_an_installed_package_that_fails_is_named(
    install: Callable[..., None], target: str, message: str
) -> None:
    """With its entry point, the reason, and the way round it."""
    install(broken=target)
    with pytest.raises(PluginError, match=message) as caught:
        names(plugins="auto")
    assert "'broken' (acme_audit:" in str(caught.value) and "package acme-audit" in str(caught.value)
    assert "PGEVENTS_PLUGINS_OFF=broken leaves it out" in str(caught.value)
