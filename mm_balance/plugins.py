"""What installed packages add by entry points: methods, encoders, data sets. Nothing of theirs is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from mm_balance.errors import UserError, did_you_mean


class Outside(NamedTuple):
    """Something of an installed package: its import path, and the name of the package."""

    path: str
    package: str


@dataclass(frozen=True)
class Plugins:
    """Names of one kind of thing: those of this package, and those of installed packages.

    Attributes:
        parameter: the parameter that takes such a name, for messages.
        group: entry-point group, name = import path.
        built_in: name -> import path.
        own: how to name something of one's own, for messages.
    """

    parameter: str
    group: str
    built_in: Mapping[str, str]
    own: str

    def offered(self, name: str | None = None) -> list[EntryPoint]:
        """Return the entry points of installed packages; with ``name``, only those of that name."""
        return [item for item in entry_points(group=self.group) if name in (None, item.name)]

    def names(self, also: Sequence[str] = ()) -> list[str]:
        """Return all names: those of this package, those in ``also``, then those of installed packages."""
        return list(dict.fromkeys([*self.built_in, *also, *sorted(item.name for item in self.offered())]))

    def outside(self, name: str, also: Sequence[str] = ()) -> Outside | None:
        """Return what an installed package has for ``name``; None = the name is one of this package or in ``also``.

        Raises:
            UserError: no such name, or one that two packages have.
        """
        offered = self.offered(name)
        owners = [f"{item.value} of the installed package {item.dist.name if item.dist else '?'}" for item in offered]
        if name in self.built_in:
            owners.insert(0, f"{self.built_in[name]} of MM-Balance")
        if len(owners) > 1:
            raise UserError(
                f"{self.parameter}={name} is ambiguous: {' and '.join(owners)}; uninstall one, or give {self.parameter}={self.own}"
            )
        if name in self.built_in or name in also:
            return None
        if not offered:
            raise self.unknown(name, also)
        return Outside(f"{offered[0].module}:{offered[0].attr}", offered[0].dist.name if offered[0].dist else "")

    def unknown(self, name: str, also: Sequence[str] = ()) -> UserError:
        """Return the error of a name that nothing has."""
        known = self.names(also)
        return UserError(
            f"{self.parameter}={name} is not known{did_you_mean(name, known)}; give one of {', '.join(known)}, or your own as "
            f"{self.own}"
        )
