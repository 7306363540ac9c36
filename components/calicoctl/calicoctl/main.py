"""`calicoctl`: parse the command line, run the command, turn errors into upstream's words and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import docopt

from calicoctl import command_line, start, stdio
from calicoctl.failures import CommandFailed, notes_of, show_notes
from libcalico.errors import CalicoError

LEVELS = ("panic", "fatal", "error", "warn", "info", "debug")
SEVERITIES = {"panic": "none", "fatal": "none", "error": "error", "warn": "warning", "info": "info", "debug": "debug"}


def main(argv: list[str] | None = None) -> int:
    """The exit status of a command line. Without one it is the process's: it takes over the standard files, and ends
    here."""
    if argv is not None:
        return _written(argv)
    start.prepare()
    stdio.take_over()
    status = _written(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # the interpreter would take its modules apart, for as long as a request to etcd


def _written(words: list[str]) -> int:
    """The exit status of a command whose output has reached its reader, as far as there is one."""
    try:
        status = _status(words)
        sys.stdout.flush()
    except BrokenPipeError:
        stdio.give_up_output()
        return stdio.BROKEN_PIPE_STATUS
    except stdio.OutputFailed as error:
        stdio.give_up_output()
        print(error, file=sys.stderr)
        return 1
    return status


def _status(words: list[str]) -> int:
    try:
        _check_words(words)
        return _run(words)
    except (BrokenPipeError, stdio.OutputFailed):
        raise
    except CalicoError as error:
        to_stdout = isinstance(error, CommandFailed) and error.to_stdout
        print(error, file=sys.stdout if to_stdout else sys.stderr)
        show_notes(notes_of(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # what nobody thought of is our mistake; a stack of calls helps only those who look
        start.log_failure()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"calicoctl failed by a mistake of its own: {reason} (--log-level=debug shows where)", file=sys.stderr)
        return 1


def _check_words(words: list[str]) -> None:
    """Refuse an argument with bytes that are no UTF-8: they cannot be sent, stored or printed."""
    for place, word in enumerate(words, 1):
        if not word.isprintable() and word != word.encode("utf-8", "replace").decode():
            shown = word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise CommandFailed(f"argument {place}, '{shown}', is not UTF-8 text")


def _run(words: list[str]) -> int:
    try:
        top = command_line.parse(command_line.TOP, words, options_first=True)
    except docopt.DocoptExit:
        return _top_usage(words)
    if top["--help"]:
        print(command_line.TOP)
        return 0
    level = top["--log-level"]
    if level not in LEVELS:
        print(f"Unknown log level: {level}, expected one of: \n{', '.join(LEVELS)}.")
        return 1
    start.choose_severity(SEVERITIES[level])
    command, rest = top["<command>"], list(top["<args>"])
    if top["--allow-version-mismatch"]:
        rest.append("--allow-version-mismatch")
    return _run_command(command, rest, top["--context"])


def _top_usage(words: list[str]) -> int:
    if any(word in ("-h", "--help") for word in words):
        print(command_line.TOP)
        return 0
    print(f"Invalid option: '{' '.join(words)}'. Use flag '--help' to read about a specific subcommand.")
    print(command_line.TOP, file=sys.stderr)
    return 1


def _run_command(command: str, rest: list[str], context: str | None) -> int:
    name = command
    if subcommands := command_line.GROUPS.get(command):
        if not rest or (rest[0] not in subcommands and not rest[0].startswith("-")):
            return _no_subcommand(command, rest)
        name = f"{command} {rest[0] if rest[0] in subcommands else subcommands[0]}"
    usage = command_line.COMMANDS.get(name)
    if usage is None:
        print(f'unknown command: "{command}"\n{command_line.TOP}', file=sys.stderr)
        return 1
    if "-h" in rest or "--help" in rest:
        print(usage)
        return 0
    try:
        arguments = command_line.parse(usage, [command, *rest])
    except docopt.DocoptExit as error:
        print(f"{command_line.usage_lines(usage)}\n", file=sys.stderr)
        reason = command_line.what_is_wrong(name, [command, *rest], str(error))
        print(f"calicoctl {name}: {reason}. Use flag '--help' to read about it.", file=sys.stderr)
        return 1
    if context and not arguments.get("--context"):
        arguments["--context"] = context
    return _commands(name)(arguments)


def _no_subcommand(command: str, rest: list[str]) -> int:
    """Upstream prints its help for an unknown subcommand and succeeds; a script must not take that for a check."""
    if rest:
        print(f'unknown command: "{command} {rest[0]}"', file=sys.stderr)
    subcommands = command_line.GROUPS[command]
    print(f"{command_line.usage_lines(command_line.COMMANDS[f'{command} {subcommands[0]}'])}\n", file=sys.stderr)
    print(f"calicoctl {command}: the subcommands are: {', '.join(subcommands)}", file=sys.stderr)
    return 1


def _commands(name: str) -> Callable[[dict[str, Any]], int]:
    """The command's function; its module is loaded only now, since most are not needed."""
    if name == "get":
        from calicoctl.commands import get

        return get.run
    if name in ("create", "apply", "replace", "delete", "validate"):
        from calicoctl.commands import files

        found: Callable[[dict[str, Any]], int] = getattr(files, name)
        return found
    if name in ("patch", "label"):
        from calicoctl.commands import change

        return change.patch if name == "patch" else change.label
    if name.startswith("ipam "):
        return _ipam_command(name)
    if name.startswith(("node ", "cluster ")):
        return _node_command(name)
    from calicoctl.commands import version

    return version.run


def _ipam_command(name: str) -> Callable[[dict[str, Any]], int]:
    if name == "ipam check":
        from calicoctl.commands import ipam_check

        return ipam_check.run
    if name == "ipam release":
        from calicoctl.commands import ipam_release

        return ipam_release.run
    from calicoctl.commands import ipam

    return ipam.show


def _node_command(name: str) -> Callable[[dict[str, Any]], int]:
    from importlib import import_module

    found: Callable[[dict[str, Any]], int] = import_module(f"calicoctl.commands.{name.replace(' ', '_')}").run
    return found


if __name__ == "__main__":
    sys.exit(main())
