"""
The greeting: whom the daemon takes a client for, and what it says of itself.
"""

import os
import pwd

from queuectl.protocol import PROTOCOL_VERSION, SCOPES, Welcome
from queuectld.core.peer import Peer
from queuectld.runtime.peers import PeerRefused


class Greeter:
    """
    Greets for the daemon of this *version* and *epoch*.
    """

    def __init__(self, version: str, epoch: int) -> None:
        self._version = version
        self._epoch = epoch
        self._own = _account_name(os.geteuid())

    def identify(self, token: str) -> Peer:
        """
        Return whom a token stands for. Raises PeerRefused.
        """
        raise PeerRefused("the token is not valid here")

    def welcome(self, peer: Peer) -> Welcome:
        """
        Return the answer to a hello. In user mode everybody is the daemon's own account.
        """
        return Welcome(
            protocol=PROTOCOL_VERSION,
            version=self._version,
            pid=os.getpid(),
            epoch=self._epoch,
            uid=os.geteuid() if peer.uid is None else peer.uid,
            user=self._own if peer.uid is None else peer.user,
            admin=peer.admin,
            scopes=[scope for scope in SCOPES if scope in peer.scopes],
            token=peer.token,
        )


def _account_name(uid: int) -> str:
    """
    Return what to call an account: in a container it may have no name, or one that is no UTF-8.
    """
    try:
        name = pwd.getpwuid(uid).pw_name
        name.encode()
    except (KeyError, OSError, UnicodeEncodeError):
        return str(uid)
    return name
