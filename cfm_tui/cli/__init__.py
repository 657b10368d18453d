"""The `cfm` command line: its commands, signal handlers and error reports.

Neither this module nor the top level of a command's module imports heavy parts of the engine, so that
`cfm --help` stays fast.
Exit codes: 0 success, 1 failure, 2 usage or configuration, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from cfm_tui.cli import (
    bench,
    data,
    doctor,
    export,
    method,
    preset,
    report,
    run,
    runs,
    score,
    steer,
    sweep,
    table,
    validate,
)
from cfm_tui.cli import console as console_commands
from cfm_tui.cli.common import echo, print_json
from cfm_tui.display.streams import (
    discard_output,
    escape_control_characters,
    prepare_standard_streams,
)
from cfm_tui.process.signals import CHECKPOINT_SIGNALS, install_handlers

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a stdout that is full or broken


class SectionedGroup(TyperGroup):
    """Commands that the help lists by what a person wants to do: by their `rich_help_panel`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each panel."""
        width = max(map(len, self.commands))
        for title in _SECTIONS:
            rows = [
                (f"{name:<{width}}", command.get_short_help_str(formatter.width - width - 4))
                for name, command in self.commands.items()
                if getattr(command, "rich_help_panel", None) == title
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    name="cfm",
    cls=SectionedGroup,
    help="Distil an image data set into a few images per class (CFM), and evaluate them.",
    epilog="`cfm COMMAND --help` has the options of a command. `cfm-tui` opens the console.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from engine.version import product_version

        echo(f"cfm-tui {product_version()}")
        raise typer.Exit


@app.callback()
def _define_global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure; accepted after any command.")
    ] = False,
) -> None:
    pass


_SECTIONS: dict[str, dict[Any, str]] = {  # functions and groups of commands, with their line in the list
    "Run and resume": {
        run.run: "Distil a data set and evaluate the images.",
        run.resume: "Resume a run from its last checkpoint, or add repeats to it.",
        sweep.sweep: "Run all points of a sweep: methods, settings, repeats.",
        validate.validate: "Train students on an existing distilled set.",
    },
    "Watch and steer": {
        console_commands.attach: "Open the console on a run.",
        steer.watch: "Follow a run as text until it ends.",
        steer.pause: "Pause a run at its next checkpoint.",
        steer.continue_run: "Continue a paused run.",
        steer.stop: "Write a checkpoint and stop a run.",
        steer.checkpoint: "Let a run write a checkpoint now.",
    },
    "Look at results": {
        runs.runs: "List the runs, or those that match a query.",
        runs.show: "Show a run's results, images, losses and spectra as text.",
        score.score: "Compute the objective's terms for any set of images.",
        steer.check: "Verify the checksums of all files of a run.",
    },
    "Data and teachers": {data.app: "List, download and check data sets; check a teacher on one."},
    "Compare and publish": {
        table.table: "Compare methods: mean ± std, control, significance, paper.",
        report.report: "Write one HTML page with every figure of one run or several.",
        export.export: "Write a run in the format of another tool.",
    },
    "Presets and methods": {
        preset.app: "List, show and check presets and configuration files.",
        method.app: "List and show methods: filters, signals, weights.",
    },
    "Check this machine": {
        doctor.doctor: "Check software, devices, folders, data sets and terminal.",
        bench.bench: "Measure the speed of each stage, and how long a run takes.",
    },
}
for title, commands in _SECTIONS.items():
    for command, line in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, short_help=line, rich_help_panel=title)
        else:
            name = command.__name__.removesuffix("_run")
            app.command(name, short_help=line, rich_help_panel=title)(command)

console_app = typer.Typer(
    name="cfm-tui", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
console_app.command()(console_commands.console)


class Terminated(SystemExit):
    """Raised on SIGTERM or SIGHUP, so that open resources are closed during unwinding."""


def _terminate(name: str) -> NoReturn:
    install_handlers([name], _ignore_signal)  # a closing terminal may send SIGHUP twice
    raise Terminated(143)


def _ignore_signal(_: str) -> None:
    """Ignore a signal: there is nothing to save yet, or the process is already terminating."""


def main(args: Sequence[str] | None = None, program: typer.Typer = app, name: str = "cfm") -> NoReturn:
    """Run a command line and exit with its code."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    prepare_standard_streams()
    ending = ("SIGTERM", "SIGHUP")
    install_handlers(ending, _terminate, keep_ignored=ending)  # until a run starts (see `handle_signals`)
    install_handlers(CHECKPOINT_SIGNALS, _ignore_signal, keep_ignored=CHECKPOINT_SIGNALS)
    try:
        if words[:1] != ["doctor"] and not {"--help", "--version"} & set(words):  # the doctor reports it
            _require_known_variables()
        code = program(words, standalone_mode=False, prog_name=name) or 0
        if code == 130:  # Typer's exit code for Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code = _report(error, as_json="--json" in words)
    sys.exit(code)


def _require_known_variables() -> None:
    """Raise UserError("config") if a CFM_* variable is unknown; settings are loaded only if one may be."""
    from engine import environment

    if any(name.startswith("CFM_") and name not in environment.VARIABLES for name in os.environ):
        from engine.config import settings

        settings.require_known_variables(os.environ)


def _report(error: BaseException, *, as_json: bool) -> int:
    """Print an error, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        discard_output(1, 2)
        return 1
    if isinstance(error, SystemExit) and not isinstance(error, Terminated):
        return error.code if isinstance(error.code, int) else 1
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]  # noqa: T201
        return 2
    code, kind, *texts = _describe_error(error)
    if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE:
        discard_output(1)
        as_json = False
    message, hint = map(escape_control_characters, texts)
    try:
        if as_json:
            print_json({"error": {"kind": kind, "message": message, "hint": hint}})
        else:
            print(f"cfm: {message}" + (f"\n→ {hint}" if hint else ""), file=sys.stderr)  # noqa: T201
    except OSError:  # the terminal was closed
        discard_output(1, 2)
    return code


def _describe_error(error: BaseException) -> tuple[int, str, str, str]:
    """Return the exit code, kind, message and hint of an error."""
    from engine.errors import Stopped, UserError

    if isinstance(error, UserError):
        return 2, error.kind, error.message, error.hint
    if isinstance(error, typer.BadParameter.__mro__[2]):  # base class of all command-line errors
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "cfm"
        if hasattr(error.__cause__, "errors"):
            return 2, "usage", *_describe_bad_value(error, command)
        return 2, "usage", error.format_message(), f"`{command} --help` lists arguments and options"  # type: ignore[attr-defined]
    if isinstance(error, Stopped):
        terminated = error.by in ("SIGTERM", "SIGHUP")
        code, kind = (143, "terminated") if terminated else (130, "interrupted")
        return code, kind, str(error), error.hint
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130, "interrupted", "interrupted", ""
    if isinstance(error, Terminated):
        return 143, "terminated", "terminated", ""
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{os.fspath(error.filename)!r:.200}: {error.strerror}"
        return 2, "disk", message, "run again with --debug for the traceback"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        message = f"cannot write the output: {error.strerror}"
        return 2, "disk", message, "redirect it to a disk with free space"
    lines = str(error).splitlines()
    message = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return 1, "failed", f"failed: {message}", "run again with --debug for the traceback"


def _describe_bad_value(error: Any, command: str) -> tuple[str, str]:
    """Return message and hint for an option's value that pydantic refuses.

    error: of Typer, whose cause is pydantic's.
    """
    problem = error.__cause__.errors(include_url=False)[0]
    name, bounds = error.param.opts[0], problem.get("ctx", {})
    kind, example = ("a number", "0.5") if problem["type"].startswith("float") else ("a whole number", "3")
    wanted = f"is not {kind}"
    for key, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if key in bounds:
            wanted, example = f"must be {words} {bounds[key]:g}", f"{bounds[key]:g}"
    message = f"{name} of `{command}`: {str(problem['input'])[:60]!r} {wanted}"
    return message, f"write for example {name} {example}; `{command} --help` lists all options"


def console() -> NoReturn:
    """Run the `cfm-tui` command line and exit."""
    main(program=console_app, name="cfm-tui")
