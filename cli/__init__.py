"""The command line: one file per subcommand; heavy imports only inside the commands, so that help is instant."""

from __future__ import annotations

from aurora_export.cli.ask import ask_command
from aurora_export.cli.batch import batch_command
from aurora_export.cli.bench import bench_command
from aurora_export.cli.build import build_command
from aurora_export.cli.calibrate import calibrate_command
from aurora_export.cli.chat import chat_command
from aurora_export.cli.check import check_command
from aurora_export.cli.doctor import doctor_command
from aurora_export.cli.info import info_command
from aurora_export.cli.ingest import ingest_command
from aurora_export.cli.measure import measure_command
from aurora_export.cli.program import program
from aurora_export.cli.run import run_command
from aurora_export.cli.sensitivity import sensitivity_command

__all__ = ["main"]

main = program
for command in (
    build_command,
    calibrate_command,
    run_command,
    ingest_command,
    ask_command,
    chat_command,
    batch_command,
    check_command,
    measure_command,
    sensitivity_command,
    info_command,
    bench_command,
    doctor_command,
):
    main.add_command(command)
