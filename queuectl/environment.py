"""
What a job takes over from the process that enqueues it: a few variables and the directory.

Not the whole environment: it holds secrets, and a job that works because of a variable of one
login session fails the day it is retried from another.
"""

import os
from collections.abc import Mapping

from msgspec import Raw

from queuectl.errors import UsageError
from queuectl.protocol import encode

ALLOWED = ("PATH", "HOME", "USER", "LANG", "TZ", "SHELL", "TERM", "XDG_RUNTIME_DIR")
ALLOWED_PREFIX = "LC_"


def caller_environment(environ: Mapping[str, str], everything: bool = False) -> dict[str, str]:
    """
    Return the variables of *environ* that jobs get: those allowed, or with *everything* all.
    """
    if everything:
        return dict(environ)
    chosen = {name: environ[name] for name in ALLOWED if name in environ}
    chosen.update((name, environ[name]) for name in environ if name.startswith(ALLOWED_PREFIX))
    return chosen


def working_directory() -> str:
    """
    Return the current directory, by the name the user knows it by ($PWD) if that is true.

    Raises UsageError when the directory is gone.
    """
    try:
        here = os.stat(".")
        path = os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the current directory cannot be used ({error.strerror}): "
            "go to another one or give --cwd DIR"
        ) from error
    known = os.environ.get("PWD", "")
    if known.startswith("/"):
        try:
            if os.path.samestat(here, os.stat(known)):
                return known
        except OSError:
            pass
    return path


def pack_variables(variables: Mapping[str, str]) -> Raw:
    """
    Return *variables* as Enqueue carries them. Raises UsageError.
    """
    try:
        return Raw(encode(dict(variables)))
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!a} is not valid UTF-8") from error
