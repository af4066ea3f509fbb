"""
What can go wrong for a client, and the exit code of each: the one table.

Every exception that a command may end with is a QueuectlError with a `code`, a word of this table.
The words that are a RefusalCode come from the daemon, the others arise on this side.
"""

from collections.abc import Iterable

EXIT_DONE = 0
EXIT_NOTHING = 1  # the awaited job failed, or nothing was affected
EXIT_BUG = 70
EXIT_CODES = {
    "usage": 2,
    "not_found": 3,
    "conflict": 4,
    "unreachable": 69,
    "idle": 69,
    "unsupported": 69,  # nobody is there who could do it
    "try_later": 75,
    "storage": 75,
    "denied": 77,
    "timed_out": 124,
    "interrupted": 130,
}


def exit_code(code: str) -> int:
    """
    Return the exit code for *code*. A word that only a newer daemon knows counts as unsupported.
    """
    return EXIT_CODES.get(code, EXIT_CODES["unsupported"])


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """
    Return ` (did you mean X?)` for the word of *known* nearest to *word*, or nothing.
    """
    from difflib import get_close_matches  # Only a mistake pays for it.

    nearest = get_close_matches(word, list(known), 1)
    return f" (did you mean {prefix}{nearest[0]}?)" if nearest else ""


class QueuectlError(Exception):
    """
    Something that its message, one line, explains to the caller. `field` names the offending field
    and `index` the offending job of a batch, where there is one.
    """

    code = "unsupported"
    field: str | None = None
    index: int | None = None


class UsageError(QueuectlError):
    """
    The caller's words break a rule. The message names what, the rule, and what would be right.
    """

    code = "usage"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class RequestTooLong(UsageError):
    """
    The request does not fit into one frame.
    """


class AccessDenied(QueuectlError):
    """
    The socket, or a directory it needs, is not open to this user.
    """

    code = "denied"


class DaemonUnreachable(QueuectlError):
    """
    Nobody listens at the socket, and nobody could be started there.
    """

    code = "unreachable"


class ConnectionLost(DaemonUnreachable):
    """
    The daemon hung up before it answered: whether the request was carried out is not known.
    """


class ConnectionIdle(ConnectionLost):
    """
    The daemon hung up because nothing was asked for long: nothing sent since was carried out.
    """


class ProtocolError(DaemonUnreachable):
    """
    The other end sent what this client cannot read: no daemon, or one much newer or older.
    """


class CallTimedOut(QueuectlError):
    """
    No answer within the time given. The connection is closed; the daemon may still do it.
    """

    code = "timed_out"


class RequestRefused(QueuectlError):
    """
    The daemon refused a request; nothing of it was done.

    `code` is a RefusalCode. `call` says which request it was, for those who pipeline.
    """

    def __init__(
        self,
        code: str,
        message: str,
        field: str | None = None,
        index: int | None = None,
        call: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.index = index
        self.call = call
