"""Declaration of one parameter: name, type, default, range, meaning, and properties as flags."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_type_hints

AUTO = "auto"
NONE = "none"


@dataclass(frozen=True)
class Option:
    """One parameter as the user sees it.

    Attributes:
        name: the same on the command line, in presets and in runs.
        type: ``int``, ``float``, ``bool`` or ``str``: the type of a resolved value.
        default: a value of ``type``, ``"auto"`` or ``"none"``.
        group: the field of ``Config`` it belongs to, or ``study``, or ``method``.
        title: heading of the group in ``--help``.
        help: one sentence.
        choices: allowed values; empty = any.
        minimum: smallest allowed number, or None.
        exclusive: whether ``minimum`` itself is excluded.
        maximum: largest allowed number, or None.
        source: where the default comes from.
        search: range searched by a study, ``(low, high, "log" or "linear")`` or a tuple of choices; None = not declared.
        searched_by: the named search (see ``mm_balance.config.search``) that includes it; empty = none.
        machine: it says where and how to run, not what to train, and may differ between two commands for the same run.
        one_process: it applies to one process; a study sets it for each of its workers.
        may_grow: a run may be resumed with a larger value.
        in_digest: it is covered by the data digest.
        network_input: together with the data digest it determines the network and the numbers it sees.
        stored: it determines what `prepare` stores.
        reference: it refers to something whose content is recorded instead: a preset, a run, options as text.
    """

    name: str
    type: type
    default: Any
    group: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    exclusive: bool = False
    maximum: float | None = None
    source: str = ""
    search: tuple | None = None
    searched_by: str = ""
    machine: bool = False
    one_process: bool = False
    may_grow: bool = False
    in_digest: bool = False
    network_input: bool = False
    stored: bool = False
    reference: bool = False
    title: str = ""

    @property
    def by_preset(self) -> bool:
        """Whether its default depends on the data set."""
        return self.default == AUTO

    @property
    def may_be_none(self) -> bool:
        """Whether ``none`` (unset) is allowed."""
        return self.default == NONE

    @property
    def unset(self) -> Any:
        """Value of a parameter that is not set: the default, or None if the default is ``none``."""
        return None if self.may_be_none else self.default


def param(default: Any, help: str, **properties: Any) -> Any:
    """Declare a parameter as a dataclass field; ``properties`` are attributes of ``Option``."""
    return field(default=default, metadata={"help": help, **properties})


class MethodOptions:
    """Base of the groups of ``Config`` that contain the options of one method, which has the same name as the group."""


def declared_in(parameters: type, group: str) -> dict[str, Option]:
    """Return the parameters a dataclass declares, by name and in order; the first line of its docstring is the group's title."""
    hints = get_type_hints(parameters)
    title = (parameters.__doc__ or group).splitlines()[0].rstrip(".").lower()
    return {
        item.name: Option(
            name=item.name,
            type=_plain(hints[item.name]),
            default=item.default,
            group=group,
            title=title,
            **item.metadata,
        )
        for item in dataclasses.fields(parameters)
    }


def _plain(hint: Any) -> type:
    """Return ``str`` for ``str | None``: an optional parameter has the type of its values."""
    members = [member for member in getattr(hint, "__args__", (hint,)) if member is not type(None)]
    return members[0]
