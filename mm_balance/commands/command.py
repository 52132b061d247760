"""What a command is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mm_balance.config import Config, Option, options, parse_arguments, resolve
from mm_balance.methods import check_method_name

Stop = Callable[[], bool]
Given = dict[str, Any]
"""Parameter -> value, of those that were given."""


@dataclass(frozen=True)
class Command:
    """A command of the program: an entry point of ``MLproject``, and ``python -m entrypoints.NAME``.

    Attributes:
        name: its name.
        help: one sentence.
        parameters: what it takes, by name.
        often: the parameters that are changed most, at most twelve: ``MLproject`` declares them, ``--help`` lists them first.
        run: does it, with what was given; the second argument is asked whether to stop.
        defaults: where its defaults differ from the declared ones.
        fixed: values of parameters that it does not take.
        epilog: what ``--help`` says below the parameters, from the command line's words.
    """

    name: str
    help: str
    parameters: Mapping[str, Option]
    often: Sequence[str]
    run: Callable[[Given, Stop], None]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    epilog: Callable[[Sequence[str]], str] = lambda words: ""

    def parse(self, words: Sequence[str]) -> Given:
        """What was given on the command line.

        Raises:
            UserError: an unknown parameter, or a bad value.
        """
        given = parse_arguments(
            self.name,
            words,
            self.parameters,
            defaults=self.defaults,
            help=self.help,
            often=self.often,
            epilog=self.epilog(words) if {"-h", "--help"} & set(words) else "",
        )
        if "dataset" in self.parameters and not given.get("resume_run"):
            config = self.resolve(given)  # what cannot work is reported before anything is loaded
            check_method_name(config.method.method)
        return given

    def resolve(self, given: Given) -> Config:
        """The configuration of a new run.

        Raises:
            UserError: values that cannot work together.
        """
        known = {name: value for name, value in given.items() if name in options()}
        return resolve({**known, **self.fixed}, self.defaults)
