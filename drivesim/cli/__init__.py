"""The ``drivesim`` command: parses, then calls one function of ``drivesim.jobs``.

Nothing heavy is imported before a job is chosen, so that ``--help`` and mistakes answer at once. Options come in any
order, also between ``key=value`` overrides. A mistake is one to three lines on stderr, status 2, never a page of usage.
"""

import errno
import sys
from collections.abc import Sequence

from drivesim import __version__
from drivesim.cli.commands import COMMANDS
from drivesim.errors import EXIT_DEFECT, EXIT_DONE, EXIT_INTERRUPTED, EXIT_MISTAKE, Interrupted, Mistake, nearest

REFUSED = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR}
"""What the system says of a path that only the user can mend."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status (see ``errors``)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except (KeyboardInterrupt, Interrupted) as stop:
        resumable = bool({"train", "encode", "generate"} & set(words[:1]))
        mend = "the same command with --resume goes on" if resumable else "what was written so far is in --out"
        return _failed(stop, EXIT_INTERRUPTED, f"interrupted; {str(stop) or mend}", words)
    except Mistake as mistake:
        return _failed(mistake, EXIT_MISTAKE, "\n".join(str(mistake).splitlines()[:3]), words)
    except Exception as defect:
        if isinstance(defect, OSError) and defect.errno in REFUSED and defect.filename is not None:
            return _failed(defect, EXIT_MISTAKE, str(Mistake(f"{defect.strerror}", where=defect.filename)), words)
        what = f"a defect of drivesim: {type(defect).__name__}: {' '.join(str(defect).split())[:300]}"
        return _failed(defect, EXIT_DEFECT, f"{what} (run with --debug for the traceback)", words)


def _failed(problem: BaseException, status: int, text: str, words: list[str]) -> int:
    if "--debug" in words:
        import traceback

        traceback.print_exception(problem)
    print(f"drivesim: {text}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    if not words:
        raise Mistake("a command is expected", mend=f"one of {', '.join(COMMANDS)}; 'drivesim --help' explains them")
    name, rest = words[0], words[1:]
    if name in ("-h", "--help", "help"):
        print(_overview())
    elif name == "--version":
        print(f"drivesim {__version__}")
    elif name.startswith("-"):
        raise Mistake(f"unknown option '{name}'", mend=nearest(name, ("--help", "--version", "--debug")))
    elif name not in COMMANDS:
        raise Mistake(f"unknown command '{name}'", mend=nearest(name, COMMANDS))
    else:
        parser = COMMANDS[name].parser(name)
        if "-h" in rest or "--help" in rest:
            parser.print_help()
        else:
            COMMANDS[name].run(parser.read(rest))
    return EXIT_DONE


def _overview() -> str:
    rows = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: drivesim COMMAND ...",
            "",
            "Driving video from a Video Latent Diffusion Model: trained from scratch, rolled out for minutes, scored.",
            "",
            *rows,
            "",
            "'drivesim COMMAND --help' shows its options and an example. --debug shows the traceback of an error.",
            "exit status: 0 done; 1 a defect of drivesim; 2 a mistake in the request; 75 interrupted, can be resumed",
        ]
    )
