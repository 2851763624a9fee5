"""The command line: `dqviz COMMAND`; every command is one documented Python function away.

The commands are the files of `dqviz/commands/`; here are the edges: exit codes, errors, help. Nothing
slow is imported until a command needs it, so that `--help` answers at once. With `--json` stdout
holds exactly one JSON object. Exit codes: 0 done, 2 bad input, 3 environment, 4 a bound that `gate` found
missed or a promise that `check-method` found broken, 1 internal, 130 cancelled; an error is one line on stderr.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from . import __version__, provenance
from .commands import commands
from .terminal import complain, only_our_warnings

app = typer.Typer(
    name="dqviz",
    help="What post-training quantization does to a Diffusion Transformer, and what to do about it.",
    epilog="MODEL is an embedded key (dqviz models), a folder, or owner/name[@revision] on the hub.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error becomes one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    shadowed = provenance.foreign()
    if shadowed and arguments[:1] != ["doctor"]:
        complain(shadowed[0].sentence())
        return 3
    with only_our_warnings():
        return _guarded(arguments)


def _guarded(arguments: list[str]) -> int:
    """The edge: nothing passes it but exit codes, unless DQVIZ_TRACE asks for the trace."""
    traced = bool(os.environ.get("DQVIZ_TRACE"))
    try:
        code = app(args=arguments, prog_name="dqviz", standalone_mode=False)
        if code == 130:  # how typer hands on a Ctrl-C
            complain("cancelled")
        return code if isinstance(code, int) else 0
    except TyperException as error:
        complain(_usage(error, arguments))
        return 2
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except Exception as error:
        if traced:
            raise
        code, message = _explained(error)
        complain(message)
        return code


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and line of an error that reached the edge."""
    if not provenance.foreign():
        from kernels.dispatch import CannotRun
        from kernels.tables import BrokenTable
        from quant.errors import DQVizError

        if isinstance(error, DQVizError):
            return error.exit_code, str(error)
        if isinstance(error, CannotRun):
            return 3, str(error)
        if isinstance(error, BrokenTable):
            return 2, str(error)
    if _out_of_memory(error):
        return 3, f"out of memory ({error}); use --batch-size 1, fewer seeds, or a larger machine"
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return 3, f"the system refused{where}: {error.strerror or error}"
    trace = "run again with DQVIZ_TRACE=1 for the trace, and report it"
    return 1, f"internal error: {type(error).__name__}: {error}; {trace}"


def _out_of_memory(error: Exception) -> bool:
    """Of Python, of a GPU, or of torch on a CPU, whose error has no class of its own."""
    named = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or named


def _usage(error: TyperException, arguments: Sequence[str]) -> str:
    """A usage error as one line with the nearest name that exists."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dqviz"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    see = f"see: {command} --help"
    option = getattr(error, "option_name", None)
    if option is not None and context is not None:
        names = [name for p in context.command.params for name in (*p.opts, *p.secondary_opts)]
        return f"unknown option {option}; {_nearest(option, names)}{see}"
    match = re.match(r"No such command '(.*?)'", message)
    if match is not None and context is not None:
        names = context.command.list_commands(context)
        return f"unknown command '{match[1]}'; {_nearest(match[1], names)}{see}"
    named = re.match(r"Invalid value for '(--[\w-]+)", message)
    if named is not None and named[1] in arguments[:-1]:
        message = f"{message.rstrip('.')} (got '{arguments[arguments.index(named[1]) + 1]}')"
    return f"{message.rstrip('.')}; {see}"


def _nearest(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return f"nearest: {', '.join(found)}; " if found else ""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dqviz {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Show help when no command is given."""
    if context.invoked_subcommand is None:
        print(context.get_help())


for _name, _run in commands().items():
    app.command(_name)(_run)
