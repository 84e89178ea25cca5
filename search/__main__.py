"""The command line: ``python -m search``."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import sys
import warnings
from pathlib import Path

import click

from objectives.errors import SearchError
from objectives.secrets import said
from search.names import INSTALLED


def command() -> None:
    """:func:`main`, for a process that is nothing else: it ends without Python's teardown.

    To take torch, Ray and MLflow apart object by object costs a second or two of a processor after the result is there;
    the system frees it all at once.
    """
    code = 0

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # its reader has gone, or it is closed
                stream.flush()
        os._exit(code)

    atexit.register(leave)  # called after all that libraries register later
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        raise
    except BaseException:
        code = 1
        raise


def main(args: list[str] | None = None) -> None:
    """Run one command and exit with its code. No traceback reaches a user without ``--debug``."""
    from search.cli import cli

    # Standard error is for progress and one sentence; what libraries tell their developers is no help to a user.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # Shells complete the installed command alone: they have no word for `python -m search`.
    name = INSTALLED if Path(sys.argv[0]).stem == INSTALLED else "python -m search"
    debug = "--debug" in (sys.argv[1:] if args is None else args)
    try:
        cli.main(args, prog_name=name, complete_var="_TARGET_SEARCH_COMPLETE", standalone_mode=False)
        sys.stdout.flush()  # here, where what fails is still said
    except SearchError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(_usage(error), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Files of ours have sentences of their own; what is left is the output, or a library's scratch.
            where = error.filename or "standard output"
            _fail(f"{where} cannot be written ({error.strerror}): free space, then show or resume the search", 2)
        _fail(f"{said(error)}. This is a fault of the program: run again with --debug to see where", 1)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = f"; see `{context.command_path} --help`" if context is not None else ""
    return " ".join(error.format_message().split()).rstrip(".") + command  # choices stand on lines of their own


#: What a terminal obeys instead of showing it, but for the end of a line.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _fail(sentence: str, code: int) -> None:
    """Names of files and words of libraries may hold anything: a data set of somebody else's could write to the
    terminal's clipboard."""
    shown = _CONTROLS.sub(lambda control: ascii(control[0])[1:-1], sentence)
    print(f"error: {shown}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    command()
