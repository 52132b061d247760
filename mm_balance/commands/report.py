"""`report`: tables and figures of any set of logged runs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import options
from mm_balance.errors import Interrupted


def run(request: Request, stop: Stop) -> None:
    """Write the report of experiments, and log it as a run of its own."""
    values = COMMAND.complete(request.given)
    from mm_balance import names
    from mm_balance.commands.training import failing
    from mm_balance.report.files import publish_report, write_report
    from mm_balance.report.make import ReportRequest, make_report
    from mm_balance.tracking.lookup import current_experiment_name, open_run, run_link

    experiments = [name.strip() for name in (values["experiment"] or current_experiment_name()).split(",")]
    wanted = ReportRequest(
        experiments=experiments,
        group_by=None if values["group_by"] is None else values["group_by"].split(","),
        baseline=values["baseline"],
        split=values["split"],
    )
    report = make_report(wanted)
    if stop():
        raise Interrupted
    record = open_run(f"report of {', '.join(experiments)}", tags={"mm.stage": "report"})
    record.set_tags({"mm.stage": "report"})
    with failing(record), TemporaryDirectory() as temporary:
        folder = Path(temporary if values["out"] is None else values["out"]).expanduser()
        publish_report(report, write_report(report, folder), folder, record)
    record.terminate("FINISHED")
    for line in (*report.warnings, *report.sentences):
        print(f"- {line}")
    if values["out"] is not None:
        print(f"page: {(folder / names.REPORT_FILE).resolve()}")
    print(f"run:  {record.run_id}")
    print(f"link: {run_link(record)}")


PARAMETERS = {name: options()[name] for name in ("experiment", "group_by", "baseline", "split", "out")}

COMMAND = Command(
    name="report",
    help="Tables and figures of any set of logged runs: HTML, Markdown, LaTeX, CSV, PDF, SVG and PNG.",
    parameters=PARAMETERS,
    common=tuple(PARAMETERS),
    run=run,
)
