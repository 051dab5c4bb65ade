"""What a kind of object may say, and what of it may be written.

A `Kind` is a row for each collection of the device: its fields with defaults, and hooks for what
one table cannot say. Whatever is not a field is refused, and so is a value that only the device
itself may write.
"""

import copy
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emulator.errors import Refusal, not_found, refused
from emulator.names import FullPath, Place, full_path

if TYPE_CHECKING:
    from emulator.configuration import Configuration


class Write(enum.Enum):
    """Who may write a field, and when."""

    ALWAYS = "always"
    CREATE = "create"
    NEVER = "never"


@dataclass(frozen=True)
class Field:
    """One property.

    Attributes:
        default: What a fresh object says; None: the property is absent until it is set.
        allowed: The words that may be written; None: any.
        low: Smallest number; a field with numbers refuses anything else.
        high: Largest number.
        write: Who may write it.
    """

    default: Any = None
    allowed: frozenset[str] | None = None
    low: int | None = None
    high: int = 4294967295
    write: Write = Write.ALWAYS


def words(default: str | None, *more: str) -> Field:
    """A field of a few words; the first is the default."""
    return Field(default, frozenset((*([default] if default else ()), *more)))


def switch(default: str, other: str) -> Field:
    return words(default, other)


def number(default: int, low: int = 0, high: int = 4294967295) -> Field:
    return Field(default, low=low, high=high)


TEXT = Field()
READ_ONLY = Field(write=Write.NEVER)
IGNORED = frozenset(
    (
        "kind",
        "selfLink",
        "generation",
        "fullPath",
        "name",
        "partition",
        "subPath",
        "isSubcollection",
    )
)  # a client that sends back what it read may send these, and they are not looked at


class Kind:
    """A collection of the device.

    Attributes:
        pattern: Its place under /mgmt/tm, `*` for the name of a parent.
        title: What the device calls one of it in an error.
        subcollections: Property that links to it, and its last segment.
    """

    def __init__(
        self, pattern: str, title: str, fields: Mapping[str, Field], *subcollections: str
    ) -> None:
        self.pattern: Place = tuple(pattern.split("/"))
        self.title = title
        self.fields = fields
        self.subcollections = subcollections
        bare = [part for part in self.pattern if part != "*"]
        self.stem = "tm:" + ":".join((*bare, bare[-1]))

    # ------------------------------------------------------------ names
    def path_of(self, segment: str) -> FullPath:
        return full_path(segment)

    def path_from(self, parent: Place, values: Mapping[str, Any]) -> FullPath:
        """Return the path of an object to be made; its name or a field carries the partition."""
        name = str(values["name"])
        if name.startswith("/"):
            return self.path_of(name)
        partition = values.get("partition", self.default_partition(parent))
        folder = values.get("subPath", "")
        return self.path_of("/".join(("", str(partition), *filter(None, (folder,)), name)))

    def default_partition(self, parent: Place) -> str:
        return "Common"

    def shown(self, place: Place) -> str:
        """Return what an error says of an object."""
        return place[-1]

    def missing(self, place: Place) -> Refusal:
        return not_found(self.title, self.shown(place))

    # ------------------------------------------------------------ values
    def defaults(self) -> dict[str, Any]:
        return {
            k: copy.deepcopy(f.default) for k, f in self.fields.items() if f.default is not None
        }

    def cleaned(self, values: Mapping[str, Any], verb: Write) -> dict[str, Any]:
        """Return what of a body is to be stored.

        Raises:
            Refusal: An unknown property, one that may not be written, a value that is none.
        """
        out: dict[str, Any] = {}
        for key, value in values.items():
            if key in IGNORED or key.endswith("Reference") or value in (None, {}):
                continue
            field = self.fields.get(key)
            if field is None:
                raise refused(400, f'"{key}" unknown property')
            if field.write is Write.CREATE and verb is not Write.CREATE:
                raise refused(400, _only_on_create(key))
            if field.write is Write.NEVER:
                self.read_only(key, value, out)
            else:
                out[key] = checked(key, value, field)
        return out

    def read_only(self, key: str, value: Any, out: dict[str, Any]) -> None:
        raise refused(400, f'"{key}" is read-only')

    # ------------------------------------------------------------ hooks
    def check(self, config: "Configuration", place: Place) -> None:
        """Look at an object as it would be, with everything around it."""

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        """An object was made with its defaults and the body's values."""

    def changed(
        self,
        config: "Configuration",
        place: Place,
        before: Mapping[str, Any],
        body: Mapping[str, Any],
    ) -> None:
        """An object was changed."""

    def deleting(self, config: "Configuration", place: Place) -> None:
        """An object is about to be deleted."""

    def rendered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object's own values as GET shows them; runtime state comes on top."""
        return copy.deepcopy(dict(values))


def _only_on_create(key: str) -> str:
    return (
        f'"{key}" may not be specified in the context of the "modify" command. '
        f'"{key}" may be specified using the following commands: create, list, show'
    )


def checked(key: str, value: Any, field: Field) -> Any:
    """Return the value in the form the device keeps.

    Raises:
        Refusal: It is not one of the words, or no number within its bounds.
    """
    if field.allowed is not None and value not in field.allowed:
        raise invalid(key, value)
    if field.low is None:
        return value
    try:
        count = int(value)
    except (TypeError, ValueError):
        raise invalid(key, value) from None
    if isinstance(value, bool) or not field.low <= count <= field.high:
        raise invalid(key, value)
    return count


def invalid(key: str, value: Any) -> Refusal:
    return refused(400, f'invalid property value "{key}":"{value}"')
