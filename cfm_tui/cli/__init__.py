"""The `cfm` command: its groups, and how every failure is reported.

Nothing here or at the top of a command's module imports the engine's heavy parts, so that
`cfm --help` stays quick.
Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from cfm_tui.cli import console as consoles
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

USAGE_ERROR = typer.BadParameter.__mro__[2]  # the base of everything that is wrong with a command line

app = typer.Typer(
    name="cfm",
    help="Distil an image data set into a few images per class (CFM), and measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from engine.version import product_version

        typer.echo(f"cfm-tui {product_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure; works after any command.")
    ] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("resume")(run.resume)
app.command("runs")(runs.runs)
app.command("show")(runs.show)
app.command("attach")(consoles.attach)
app.command("watch")(steer.watch)
app.command("pause")(steer.pause)
app.command("continue")(steer.go_on)
app.command("stop")(steer.stop)
app.command("checkpoint")(steer.checkpoint)
app.command("check")(steer.check)
app.command("score")(score.score)
app.command("validate")(validate.validate)
app.command("export")(export.export)
app.command("sweep")(sweep.sweep)
app.command("table")(table.table)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.add_typer(preset.app, name="preset")
app.add_typer(method.app, name="method")
app.add_typer(data.app, name="data")

console_app = typer.Typer(
    name="cfm-tui", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
console_app.command()(consoles.console)


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came; an exception, so that whatever is open is closed on the way out."""


def _terminate(number: int, _: object) -> NoReturn:
    signal.signal(number, _pass_over)  # a terminal that is closed may say so twice
    raise Terminated(143)


def _pass_over(_: int, __: object) -> None:
    """There is nothing to save yet, or it is being left already."""


def _listen() -> None:
    """What signals mean until a run is at work (see `signals`), and to every other command."""
    meant: dict[str, Callable[[int, object], None]] = {"SIGTERM": _terminate, "SIGHUP": _terminate}
    for name, handler in (meant | {"SIGUSR1": _pass_over, "SIGUSR2": _pass_over}).items():
        number = getattr(signal, name, None)  # not every system has all
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handler)


def main(args: Sequence[str] | None = None, program: typer.Typer = app, name: str = "cfm") -> NoReturn:
    """Run a command line and exit."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    _listen()
    try:
        code = program(words, standalone_mode=False, prog_name=name) or 0
        if code == 130:  # Typer's word for Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code = _report(error, as_json="--json" in words)
    sys.exit(code)


def _report(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong, once; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        _fall_silent()
        return 1
    if isinstance(error, SystemExit) and not isinstance(error, Terminated):
        return error.code if isinstance(error.code, int) else 1
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]  # noqa: T201
        return 2
    code, kind, *said = _explain(error)
    message, hint = (_printable(text) for text in said)
    try:
        if as_json:
            print_json({"error": {"kind": kind, "message": message, "hint": hint}})
        else:
            print(f"cfm: {message}" + (f"\n→ {hint}" if hint else ""), file=sys.stderr)  # noqa: T201
    except OSError:  # the terminal is gone
        _fall_silent()
    return code


def _fall_silent() -> None:
    """Nobody reads any more: what is still to be written goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _printable(text: str) -> str:
    """The same without characters by which a foreign file's name could steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _explain(error: BaseException) -> tuple[int, str, str, str]:
    """Exit code, kind, message and hint."""
    from engine.errors import Stopped, UserError

    if isinstance(error, UserError):
        return 2, error.kind, error.message, error.hint
    if isinstance(error, USAGE_ERROR):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "cfm"
        return 2, "usage", error.format_message(), f"`{command} --help` says what can be given"  # type: ignore[attr-defined]
    if isinstance(error, Stopped):
        terminated = error.by in ("SIGTERM", "SIGHUP")
        code, kind = (143, "terminated") if terminated else (130, "interrupted")
        return code, kind, str(error), error.hint
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130, "interrupted", "interrupted", ""
    if isinstance(error, Terminated):
        return 143, "terminated", "terminated", ""
    if isinstance(error, OSError) and error.filename is not None:
        what = f"{os.fspath(error.filename)!r:.200}: {error.strerror}"
        return 2, "disk", what, "run again with --debug for the traceback"
    text = str(error).splitlines()
    what = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return 1, "failed", f"failed: {what}", "run again with --debug for the traceback"


def console() -> NoReturn:
    """The `cfm-tui` command."""
    main(program=console_app, name="cfm-tui")
