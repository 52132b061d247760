"""What one parameter is: its name, type, default, range and meaning, and facts about it as flags."""

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
        name: its name everywhere.
        type: ``int``, ``float``, ``bool`` or ``str``: the type of a resolved value.
        default: the declared default: a value of ``type``, ``"auto"`` or ``"none"``.
        group: the field of ``Config`` that holds it, or ``study``, or ``method``.
        title: what ``--help`` calls the group.
        help: one sentence.
        choices: the allowed words, empty = any.
        minimum: least allowed number, or None.
        exclusive: whether ``minimum`` itself is excluded.
        maximum: greatest allowed number, or None.
        source: where the default comes from.
        search: range of a study, ``(low, high, "log" or "linear")`` or a tuple of choices; None = none is declared.
        searched_by: the named search (see ``mm_balance.config.search``) that it belongs to; empty = none.
        machine: it says where and how to work, not what to train: it may differ between two commands for the same run.
        one_process: it is about one process; a study sets it for each of its workers.
        may_grow: a run may be continued with a greater value.
        in_digest: the digest of the data stands for it.
        network_input: it decides what the network is and which numbers it sees, beside the digest of the data.
        stored: it decides what `prepare` stores.
        reference: it names something whose content is recorded instead: a preset, a run, options as text.
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
        """Its value where nobody has set it: the default, or None where that is ``none``."""
        return None if self.may_be_none else self.default


def param(default: Any, help: str, **facts: Any) -> Any:
    """A field of a dataclass of parameters; ``facts`` as of ``Option``."""
    return field(default=default, metadata={"help": help, **facts})


class MethodOptions:
    """Base of the groups of ``Config`` that hold the options of one method: the method that is called like the group."""


def declared_in(parameters: type, group: str) -> dict[str, Option]:
    """The parameters that a dataclass declares, by name, in their order; its docstring's first line is the group's title."""
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
    """``str`` of ``str | None``: a parameter that may be unset has the type of its values."""
    members = [member for member in getattr(hint, "__args__", (hint,)) if member is not type(None)]
    return members[0]
