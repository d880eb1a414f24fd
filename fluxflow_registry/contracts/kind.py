"""What the framework knows of a kind of component: its protocol, its optional members, its entry in a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MethodType
from typing import Any, Protocol, Self, cast, runtime_checkable

import attrs
from attrs import field, frozen


def key_of(attribute: attrs.Attribute[Any]) -> str:
    """The recipe's key for a field (Python keywords such as `with` need another attribute name)."""
    return str(attribute.metadata.get("key", attribute.alias))


class Extras:
    """Optional members of a component: those defined here are the defaults for components that lack them."""

    @classmethod
    def of(cls, component: object) -> Self:
        """`component`, with the defaults of this class for the members that it does not have.

        Of a component's class, which has no values for its options yet, only the class attributes count.
        """
        return cast(Self, _WithDefaults(component, cls))

    @classmethod
    def members(cls) -> dict[str, Any]:
        """Each optional member by its name: a function where it is a method, else the default value."""
        names = (name for name in dir(cls) if not name.startswith("_") and name not in vars(Extras))
        return {name: getattr(cls, name) for name in names}


class _WithDefaults:
    def __init__(self, component: object, extras: type[Extras]) -> None:
        self._component, self._extras = component, extras

    def __getattr__(self, name: str) -> Any:
        default = getattr(self._extras, name)
        # An AttributeError within a property is an error of the component, not a missing member.
        defined = inspect.getattr_static(self._component, name, self) is not self
        found = getattr(self._component, name) if defined else getattr(self._component, name, default)
        if inspect.isclass(self._component) and hasattr(found, "__get__"):  # a property, or the slot of an option
            found = default
        return MethodType(default, self._component) if found is default and callable(default) else found


class Prepared(Extras):
    """Optional member of what may need files: a loss or a metric."""

    def ready(self) -> None:
        """Raise FluxflowError where files that it needs are missing; called before a run starts."""


@runtime_checkable
class Stateful(Protocol):
    """A loss, value, transition or weigher that keeps something between batches.

    What it keeps is in every checkpoint, is reset when a step starts, and is restored where a batch is left out. A
    component without these methods must keep nothing: `--prove-resume` finds one that does.
    """

    def state_dict(self) -> dict[str, Any]:
        """Everything that it keeps: tensors and plain values, nested as deeply as needed."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore what `state_dict` returned."""


#: Members of which a component has both or neither.
TOGETHER = (("state_dict", "load_state_dict"), ("views", "view"))


@frozen
class NoSettings:
    """The settings of an entry that has no keys but `type` and the component's own options."""


class Renaming:
    """The settings of an entry whose component receives values by name."""

    with_: dict[str, str]


@frozen
class Product:
    """What the call of a component builds, where that has optional members too."""

    name: str
    protocol: type
    extras: type[Extras]


# More than a dozen members: everything in which kinds differ is defined here, and nowhere else.
@frozen
class Kind:
    """A kind of component: all that the reader, the checker, the documentation and the schema know of it."""

    name: str
    plural: str
    #: What the call returns, in words.
    returns: str
    #: What every component of the kind is; its methods other than `__call__` are required.
    protocol: type
    extras: type[Extras] = Extras
    #: The keys of the recipe's entry that do not belong to the component; no component may have options of these names.
    settings: type = NoSettings
    #: The parameters that the call may have; None: any value of the graph.
    parameters: tuple[str, ...] | None = None
    product: Product | None = None
    #: The key of an entry that contains its `type`; None: the key is the type.
    key: str | None = field(default=None, kw_only=True)
    #: Names of this kind that the engine itself provides, with their meaning.
    provided: Mapping[str, str] = field(factory=dict, kw_only=True)
    #: The hooks of a component that is not called but notified of events.
    events: type | None = field(default=None, kw_only=True)

    @property
    def hook(self) -> str:
        """Name of the hook in which plugins register this kind."""
        return f"fluxflow_register_{self.plural}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its settings."""
        return tuple(key_of(attribute) for attribute in attrs.fields(self.settings))

    @property
    def reserved(self) -> tuple[str, ...]:
        """The keys of the recipe's entry that no option of a component may have."""
        return ("type", *self.keys)
