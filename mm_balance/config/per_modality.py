"""Parameters with a value per modality: ``VALUE`` for all, ``audio:VALUE,visual:VALUE``, or ``VALUE,audio:VALUE``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mm_balance.errors import UserError


def by_modality(name: str, text: str, modalities: Sequence[str]) -> dict[str, str]:
    """Return the value of every modality.

    A value may itself contain colons (``package.module:build``); what stands before the first one counts as a modality only if the
    data have one of that name.

    Args:
        name: the parameter, for messages.
        text: its value. It cannot contain commas.
        modalities: modalities of the data, in order.

    Raises:
        UserError: a modality without value, or with two.
    """
    values: dict[str, str] = {}
    shared: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        head, colon, rest = (piece.strip() for piece in part.partition(":"))
        if not part or (colon and not rest):
            raise UserError(f"{name}={text}: a value is missing; write {_form(modalities)}")
        if colon and head in modalities:
            if head in values:
                raise UserError(f"{name}={text}: {head} is given twice")
            values[head] = rest
        else:
            shared.append(part)
    if len(shared) > 1:
        raise UserError(
            f"{name}={text}: {' and '.join(shared)} are both for all modalities, which are {', '.join(modalities)}; write "
            f"{_form(modalities)}"
        )
    if not shared and (missing := [modality for modality in modalities if modality not in values]):
        raise UserError(f"{name}={text}: nothing for {', '.join(missing)}; write {_form(modalities)}")
    return {modality: values.get(modality, *shared) if shared else values[modality] for modality in modalities}


def changed_values(text: str, modalities: Sequence[str], change: Callable[[str], str]) -> str:
    """Return the text with every value changed, whether it is for all modalities or for one; the rest stays as it is written."""
    parts = []
    for part in (piece.strip() for piece in text.split(",")):
        head, colon, rest = part.partition(":")
        of_one = colon and head.strip() in modalities
        parts.append(f"{head}:{change(rest.strip())}" if of_one else change(part))
    return ",".join(parts)


def scales_by_modality(name: str, text: str, modalities: Sequence[str]) -> dict[str, float]:
    """Return the factor of every modality, a finite number of at least 0. Raises UserError."""
    factors = {}
    for modality, value in by_modality(name, text, modalities).items():
        try:
            factors[modality] = float(value)
        except ValueError:
            raise UserError(f"{name}={text}: {value} is not a number; write {_form(modalities, '0.1')}") from None
        if not (math.isfinite(factors[modality]) and factors[modality] >= 0.0):
            raise UserError(f"{name}={text}: {value} is out of range; give numbers of at least 0")
    return factors


def chosen_modalities(name: str, text: str | None, modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that a list names, in the order of ``modalities``: ``all``, or their names; None = none.

    Raises:
        UserError: the data have no such modality.
    """
    if text is None:
        return ()
    if text == "all":
        return tuple(modalities)
    named = [piece.strip() for piece in text.split(",")]
    if unknown := [item for item in named if item not in modalities]:
        raise UserError(
            f"{name}={text}: the data have no modality {unknown[0]!r}; give all, none, or some of {', '.join(modalities)}"
        )
    return tuple(modality for modality in modalities if modality in named)


def _form(modalities: Sequence[str], value: str = "VALUE") -> str:
    return f"{value}, or " + ",".join(f"{modality}:{value}" for modality in modalities)
