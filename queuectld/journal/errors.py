"""
What the journal refuses, by name.

Each message says what was refused, why, and what to do next. JournalFull is a state (the
same call may succeed later); JournalFailed is the end of this process's use of the journal.
"""


class JournalError(Exception):
    """
    The journal refused to do something.
    """


class JournalLocked(JournalError):
    """
    Another process has the directory open.
    """


class JournalUnsafe(JournalError):
    """
    The directory is not its owner's alone, or its file system cannot keep the promises.
    """


class JournalTooNew(JournalError):
    """
    The files were written by a newer release in a way that this one cannot read.
    """


class JournalFull(JournalError):
    """
    There is no room for the batch; nothing of it was written. It may be committed again.
    """


class JournalFailed(JournalError):
    """
    A write or sync failed. What was not acknowledged may or may not be on disk, and only
    the recovery of a new process can tell.
    """


class JournalCorrupt(JournalError):
    """
    Bytes that were once acknowledged are damaged or missing.

    *path* is the damaged file and *offset* the first byte that does not check: a segment
    is good before it, and 0 means that nothing of the file can be used. *batch_seq* is the
    number of the last batch before the damage, 0 if there is none.
    """

    def __init__(self, path: str, offset: int, reason: str, batch_seq: int) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        self.batch_seq = batch_seq
        super().__init__(
            f"{path} is damaged at byte {offset}: {reason}. The last good batch is "
            f"{batch_seq}. Nothing was changed. Restore the directory from a backup, or see "
            "what cutting off the damage would lose with: queuectl journal repair"
        )
