"""Choice of the warm-up run that a stage starts from."""

from __future__ import annotations

from mm_balance.config import AUTO, Config, format_value, options, resolve, stage_options, warmup_parameters
from mm_balance.config.datasets import is_at_hand
from mm_balance.data import MultimodalData
from mm_balance.errors import UserError
from mm_balance.methods import find_method
from mm_balance.tracking.lookup import existing_run, find_warmup
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.next_steps import command_line
from mm_balance.workflow.plans import check_takes_warmup
from mm_balance.workflow.provenance import circumstances, fingerprint


def follows_warmup(config: Config) -> bool:
    """Whether ``train`` starts from a warm-up run: one is given, or the method needs one."""
    return config.start.warmup_run is not None or find_method(config.method.method).needs_warmup


def find_matching_warmup(config: Config, data: MultimodalData) -> TrackedRun | None:
    """Return the newest finished warm-up run with the fingerprint of ``config``, preferably from the current experiment."""
    return find_warmup(fingerprint(config, data))


def choose_warmup(config: Config, data: MultimodalData) -> TrackedRun:
    """Return the warm-up run that a stage starts from: the given one, or the newest finished one with the same fingerprint.

    Raises:
        UserError: the run is missing, not a warm-up, not finished, or has other data or another network; or there is none (the
            message gives the command that trains one); or the method holds out samples that any warm-up has trained on.
    """
    given = config.start.warmup_run
    check_takes_warmup(config.method.method, given)
    if given is None:
        match = find_matching_warmup(config, data)
        if match is None:
            threads = circumstances(config)["threads"]
            environment = f", this code and {threads} CPU thread(s)" if threads else " and this code"
            raise UserError(
                f"no finished warm-up run with these settings{environment}; train one with: {warmup_line(config)}"
            )
        return match
    run = existing_run(given, "warmup_run")
    info = run.read()
    if info.data.tags.get("mm.stage") != "warmup":
        raise UserError(f"warmup_run={run.run_id} is not a warm-up run (its stage is {info.data.tags.get('mm.stage')})")
    if info.info.status != "FINISHED":
        raise UserError(
            f"warmup_run={run.run_id} has not finished (status {info.info.status}); resume it with: "
            f"{command_line('warmup', {'resume_run': run.run_id})}"
        )
    if info.data.tags.get("mm.data_digest") != data.digest:
        raise UserError(
            f"warmup_run={run.run_id} was trained on different data (the digest differs from that of {config.data.dataset})"
        )
    saved, values = run.saved_config(), config.values()
    compared = [name for name in warmup_parameters() if options()[name].network_input]
    differing = [name for name in compared if saved.get(name, values[name]) != values[name]]
    if differing:
        values_of_warmup = ", ".join(f"{name}={format_value(saved[name])}" for name in differing)
        raise UserError(f"warmup_run={run.run_id} was trained with {values_of_warmup}; give the same here")
    return run


def warmup_line(config: Config) -> str:
    """Return the command that trains the warm-up run of this configuration; of data at hand, which has one, both stages."""
    values = config.values()
    defaults = resolve({"dataset": config.data.dataset, "preset": config.run.preset}).values()
    changed = {
        name: format_value(values[name])
        for name in stage_options("warmup")
        if values[name] != defaults[name] or (name in ("dataset", "preset") and values[name] not in (AUTO, "digits"))
    }
    at_hand = is_at_hand(config.data.dataset)
    return command_line("main" if at_hand else "warmup", changed, at_hand=at_hand)
