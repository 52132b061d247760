"""Names of runs: command, method, data set, seed, and everything that was set otherwise than by the data set's preset."""

from __future__ import annotations

from mm_balance.config import AUTO, GROUPS, Config, MethodOptions, format_value, options, resolve, stage_options
from mm_balance.methods import find_method

NAMED = ("dataset", "method", "seed")
LONGEST = 120
"""Characters of a run's name, beyond which overridden parameters are counted instead of named."""


def run_title(command: str, config: Config, data_name: str) -> str:
    """Return the name of a new training run, as ``main gap_mixture digits seed 0, gap_weight=1.0``.

    Args:
        command: a key of ``STAGES``. A run of ``train`` begins with its method, a warm-up names none.
        config: its configuration.
        data_name: name of the data set.
    """
    title = short_title(command, config, data_name)
    changed = [f"{name}={value}" for name, value in overrides(command, config).items()]
    if not changed:
        return title
    full = f"{title}, {' '.join(changed)}"
    if len(full) <= LONGEST:
        return full
    kept: list[str] = []
    while len(f"{title}, {' '.join([*kept, changed[len(kept)]])} (+{len(changed) - len(kept) - 1})") <= LONGEST:
        kept.append(changed[len(kept)])
    return f"{title}, {' '.join([*kept, f'(+{len(changed) - len(kept)})'])}"


def short_title(command: str, config: Config, data_name: str) -> str:
    """Return the name without what was overridden.

    Nested runs have it: their parent says the rest, and MLflow makes an image's tile as wide as the run's name, so that a long one
    pushes the image out of sight.
    """
    method = find_method(config.method.method).name
    first = {"train": method, "warmup": command}.get(command, f"{command} {method}")
    return f"{first} {data_name} seed {config.run.seed}"


def overrides(command: str, config: Config) -> dict[str, str]:
    """Return the parameters of ``command`` whose values are not those of the data set's preset, and the preset if another was given.

    Left out: where to run, what a run's name says anyway, and references to other runs.
    """
    values = config.values()
    method = values["method"]
    usual = resolve({"dataset": values["dataset"], "preset": values["preset"], "method": method}).values()
    usual["adaptive_learning_rate"] = values["learning_rate"]  # unless it is set, it follows
    chosen = {} if values["preset"] == AUTO else {"preset": format_value(values["preset"])}
    for name, option in stage_options(command).items():
        foreign = issubclass(GROUPS[option.group], MethodOptions) and option.group != method
        if values[name] != usual[name] and not (option.machine or option.reference or foreign or name in NAMED):
            chosen[name] = format_value(values[name])
    if command in ("main", "train") and values["method_options"] is not None:
        for part in values["method_options"].split(","):
            name, _, value = part.partition("=")
            if name.strip() and name.strip() not in options():  # options that are parameters have been compared above
                chosen[name.strip()] = value.strip()
    return chosen
