"""
The greeting: whom the daemon takes a client for, and what it says of itself.

Who opened a connection is the kernel's word (peers.py). A hello may bring a token, and then the
connection is the token's account's. That account is looked up as if it had connected itself: it
must still be there under its name and uid, and be allowed to open the socket.

Who guesses learns nothing: text that is no token, an unknown id, a wrong secret, a revoked and an
expired token get one answer, and the connection ends. Nobody is locked out for wrong tokens: behind
a gateway all strangers come from one account, so that one of them could lock out all the others,
and 256 random bits need no such protection. The log tells of them, but not of each.
"""

import os
import pwd
from collections.abc import Callable
from typing import Any

from queuectl.protocol import PROTOCOL_VERSION, SCOPES, Welcome
from queuectld.core.peer import Peer
from queuectld.core.records import TokenMade
from queuectld.core.tokens import TokenTable, id_text
from queuectld.runtime.peers import PeerRefused, identify_account
from queuectld.runtime.token_text import match

# How often the log tells of refused tokens at most.
TELL_REFUSED_MS = 1_000


class Greeter:
    """
    Greets for the daemon of this *version* and *epoch*, which listens at *socket_path*. In *system*
    mode accounts differ.
    """

    def __init__(
        self,
        version: str,
        epoch: int,
        *,
        tokens: TokenTable,
        now: Callable[[], int],
        log: Any,
        socket_path: str = "",
        system: bool = False,
    ) -> None:
        self._version = version
        self._epoch = epoch
        self._tokens = tokens
        self._now = now
        self._log = log
        self._socket_path = socket_path
        self._system = system
        self._own = _account_name(os.geteuid())
        #: Refused tokens since the last that was told, and when the next may be told.
        self._refused_count = 0
        self._tells_refused_at = 0

    def find_token(self, text: str, peer: Peer) -> TokenMade:
        """
        Return the token whose text *peer* brought. Raises PeerRefused.
        """
        now = self._now()
        token = match(text, self._tokens.find)
        # In user mode all tokens are the one account's; a state directory may have changed modes.
        if token is None or token.is_expired(now) or (token.uid is not None) != self._system:
            self._note_refused(peer, now)
            raise PeerRefused("the token is not valid here: unknown, revoked or expired")
        self._tokens.used(id_text(token.token), now)
        return token

    def identify(self, token: TokenMade) -> Peer:
        """
        Return whom a token stands for now. Raises PeerRefused.
        """
        token_id, scopes = id_text(token.token), frozenset(token.scopes)
        if token.uid is None:
            return Peer(None, admin=True, scopes=scopes, token=token_id)
        account = identify_account(token.uid, token.user, self._socket_path)
        return Peer(account.uid, account.user, account.admin, scopes, token_id)

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

    def _note_refused(self, peer: Peer, now: int) -> None:
        self._refused_count += 1
        if now < self._tells_refused_at:
            return
        uid = os.geteuid() if peer.uid is None else peer.uid
        self._log.warning("token_refused", uid=uid, count=self._refused_count)
        self._refused_count = 0
        self._tells_refused_at = now + TELL_REFUSED_MS


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
