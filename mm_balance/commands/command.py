"""Declaration of a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mm_balance.commands.guard import run_guarded
from mm_balance.config import Config, Option, options, parse_arguments, resolve
from mm_balance.errors import UserError
from mm_balance.methods import check_method_name

Stop = Callable[[], bool]
Given = dict[str, Any]
"""Parameter -> value, for the parameters that were given."""


@dataclass(frozen=True)
class Request:
    """What a command was asked to do.

    Attributes:
        given: the given parameters.
        config: the configuration of a new run; None = the command resumes a run, or is not about a single one on a data set.
    """

    given: Given
    config: Config | None


@dataclass(frozen=True)
class Command:
    """A command: an entry point of ``MLproject``, and ``python -m entrypoints.NAME``.

    Attributes:
        name: its name.
        help: one sentence.
        parameters: the parameters that it accepts, by name.
        common: names of the most used parameters, at most twelve: ``MLproject`` declares them, ``--help`` lists them first.
        run: runs it; the second argument tells whether to stop.
        defaults: its defaults where they differ from the declared ones.
        fixed: values of parameters that it does not accept.
        required: parameters that must be given -> what to give.
        epilog: makes the text of ``--help`` below the parameters from the command line's arguments.
    """

    name: str
    help: str
    parameters: Mapping[str, Option]
    common: Sequence[str]
    run: Callable[[Request, Stop], None]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    epilog: Callable[[Sequence[str]], str] = lambda arguments: ""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command and return its exit status (``run_guarded``).

        Args:
            arguments: command-line arguments without the program's name; None = those of this process.
        """
        given = sys.argv[1:] if arguments is None else arguments
        return run_guarded(lambda stop: self._begin(given, stop))

    def _begin(self, arguments: Sequence[str], stop: Stop) -> None:
        request = self.parse(arguments)
        for name, what in self.required.items():
            if request.given.get(name) is None:
                raise UserError(f"{name} is missing; {what}")
        from mm_balance.tracking.store import new_client  # importing MLflow takes seconds

        new_client()  # a store that cannot be used ends the command here, not after hours of decoding
        self.run(request, stop)

    def parse(self, arguments: Sequence[str]) -> Request:
        """Parse and check the arguments of the command line, before anything is loaded.

        Raises:
            UserError: an unknown parameter, or a bad value.
        """
        given = parse_arguments(
            self.name,
            arguments,
            self.parameters,
            defaults=self.defaults,
            help=self.help,
            common=self.common,
            epilog=self.epilog(arguments) if {"-h", "--help"} & set(arguments) else "",
        )
        trains_one_run = self.parameters.get("dataset") == options()["dataset"]
        if not trains_one_run or given.get("resume_run"):
            return Request(given, None)
        config = self.resolve(given)
        check_method_name(config.method.method)
        return Request(given, config)

    def complete(self, given: Given) -> Given:
        """Return a value for every parameter: the given ones, and declared defaults (None for ``none``)."""
        return {name: option.unset for name, option in self.parameters.items()} | given

    def resolve(self, given: Given) -> Config:
        """Return the configuration of a new run.

        Raises:
            UserError: incompatible values.
        """
        known = {name: value for name, value in given.items() if name in options()}
        return resolve({**known, **self.fixed}, self.defaults)
