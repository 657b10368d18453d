"""The `cfm` command line: its commands, signal handlers and error reports.

Neither this module nor the top level of a command's module imports heavy parts of the engine, so that
`cfm --help` stays fast.
Exit codes: 0 success, 1 failure, 2 usage or configuration, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from cfm_tui.cli import console as console_commands
from cfm_tui.cli import (
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
from cfm_tui.cli.common import print_json
from cfm_tui.process.signals import CHECKPOINT_SIGNALS, install_handlers
from engine.errors import escape_name

app = typer.Typer(
    name="cfm",
    help="Distil an image data set into a few images per class (CFM), and evaluate them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from engine.version import product_version

        typer.echo(f"cfm-tui {product_version()}")
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


for function in (
    run.run, run.resume, runs.runs, runs.show, console_commands.attach, steer.watch, steer.pause,
    steer.continue_run, steer.stop, steer.checkpoint, steer.check, score.score, validate.validate,
    export.export, sweep.sweep, table.table, report.report, doctor.doctor,
):  # fmt: skip
    app.command(function.__name__.removesuffix("_run"))(function)
for name, group in {"preset": preset.app, "method": method.app, "data": data.app}.items():
    app.add_typer(group, name=name)

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
    ending = ("SIGTERM", "SIGHUP")
    install_handlers(ending, _terminate, keep_ignored=ending)  # until a run starts (see `handle_signals`)
    install_handlers(CHECKPOINT_SIGNALS, _ignore_signal, keep_ignored=CHECKPOINT_SIGNALS)
    try:
        code = program(words, standalone_mode=False, prog_name=name) or 0
        if code == 130:  # Typer's exit code for Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code = _report(error, as_json="--json" in words)
    sys.exit(code)


def _report(error: BaseException, *, as_json: bool) -> int:
    """Print an error, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return 1
    if isinstance(error, SystemExit) and not isinstance(error, Terminated):
        return error.code if isinstance(error.code, int) else 1
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]  # noqa: T201
        return 2
    code, kind, *texts = _describe_error(error)
    message, hint = ("\n".join(map(escape_name, text.split("\n"))) for text in texts)
    try:
        if as_json:
            print_json({"error": {"kind": kind, "message": message, "hint": hint}})
        else:
            print(f"cfm: {message}" + (f"\n→ {hint}" if hint else ""), file=sys.stderr)  # noqa: T201
    except OSError:  # the terminal was closed
        _discard_output()
    return code


def _discard_output() -> None:
    """Redirect stdout and stderr to the null device: nobody reads them any more."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null_device, stream.fileno())


def _describe_error(error: BaseException) -> tuple[int, str, str, str]:
    """Return the exit code, kind, message and hint of an error."""
    from engine.errors import Stopped, UserError

    if isinstance(error, UserError):
        return 2, error.kind, error.message, error.hint
    if isinstance(error, typer.BadParameter.__mro__[2]):  # base class of all command-line errors
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "cfm"
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
    lines = str(error).splitlines()
    message = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return 1, "failed", f"failed: {message}", "run again with --debug for the traceback"


def console() -> NoReturn:
    """Run the `cfm-tui` command line and exit."""
    main(program=console_app, name="cfm-tui")
