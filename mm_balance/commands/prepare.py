"""`prepare`: decode a raw download, or the files of a manifest, into a verified store."""

from __future__ import annotations

import time
from pathlib import Path

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import options
from mm_balance.config.datasets import builder_path
from mm_balance.errors import UserError


def run(request: Request, stop: Stop) -> None:
    """Decode whatever is not decoded yet, and log the data card as a run."""
    config = request.config
    assert config is not None  # it takes a data set and resumes no run
    name, source = config.data.dataset, config.prepare.source
    if name == "digits":
        raise UserError("digits is embedded: there is nothing to prepare")
    if builder_path(name) is not None:
        raise UserError(f"dataset={name} is made by a function: there is nothing to prepare")
    raw = not name.endswith(".csv")
    if raw and source is None:
        raise UserError(f"source is missing; give the folder of the raw download of {name}")
    from mm_balance.commands.training import failing
    from mm_balance.data import prepare_raw
    from mm_balance.tracking.lookup import open_run, run_link
    from mm_balance.workflow.card import log_data
    from mm_balance.workflow.report import describe_data
    from mm_balance.workflow.setup import decoding, read_data

    started = time.perf_counter()
    if raw and source is not None:
        prepare_raw(
            name,
            Path(source).expanduser(),
            protocol=config.data.protocol,
            on_error=config.data.on_error,
            allow_outside=config.data.allow_outside,
            input_config=config.input,
            work=decoding(config, stop),
        )
    data = read_data(config, stop)
    prepared = open_run(f"prepare {data.name}")
    values = config.values()
    with failing(prepared):
        prepared.set_tags({"mm.stage": "prepare", "mm.dataset": data.name, "mm.data_digest": data.digest})
        prepared.log_config({name: values[name] for name in PARAMETERS})
        log_data(prepared, data, "prepared")
        counts = data.counts | {"duplicates": data.duplicates}
        prepared.log_metrics({f"data/{count}": value for count, value in counts.items()}, 0)
        prepared.describe(describe_data(data))
    prepared.terminate("FINISHED")
    sizes = ", ".join(f"{split} {len(samples):,}" for split, samples in data.splits.items())
    print(
        f"\n{data.name}: {sizes}; skipped {len(data.skipped):,}, excluded {len(data.excluded):,}; digest {data.digest[:12]}"
    )
    for line in (*data.excluded, *data.skipped[:10]):
        print(f"  {line}")
    print(f"store: {data.folder} ({time.perf_counter() - started:.1f} s)")
    print(f"run:   {prepared.run_id}")
    print(f"link:  {run_link(prepared)}")


PARAMETERS = {
    name: option
    for name, option in options().items()
    if option.stored or option.group == "prepare" or name in ("data_dir", "preset")
}

COMMAND = Command(
    name="prepare",
    help="Decode a raw download, or the files of a manifest, into a verified store; running it again is a no-op.",
    parameters=PARAMETERS,
    common=("dataset", "source", "preset", "workers", "on_error"),
    run=run,
)
