"""
Who asks. The server takes it from the kernel's word about the connection, never from a request.

In user mode there is one account, and `uid` is None for everybody and every job. In system mode a
job belongs to the account that enqueued it: others do not see it, it does not exist for them. An
admin sees and manages all jobs, but what runs and with what variables is shown to its owner alone.
"""

from msgspec import Struct

from queuectl.protocol import SCOPES
from queuectld.core.job import Job


class Peer(Struct, frozen=True):
    """
    An account on the other end of a connection, and what the connection may do.
    """

    uid: int | None
    user: str = ""
    admin: bool = False
    scopes: frozenset[str] = frozenset(SCOPES)
    token: str | None = None  # the id of the token that stands for the account

    def sees(self, job: Job) -> bool:
        """
        Whether the job exists for this peer.
        """
        return self.admin or job.owner == self.uid

    def owns(self, job: Job) -> bool:
        """
        Whether the job is this peer's own.
        """
        return self.uid is None or job.owner == self.uid


#: The one account of user mode.
EVERYBODY = Peer(None, admin=True)


class Owner(Struct, frozen=True, gc=False):
    """
    Whose a new job is. `home` is the directory of an account that is not the submitter's own; None:
    it is.
    """

    peer: Peer
    home: str | None = None


def name_key(owner: int | None, name: str) -> str:
    """
    Return the key of a name that is unique to each account: a name never holds a slash.
    """
    return name if owner is None else f"{owner}/{name}"
