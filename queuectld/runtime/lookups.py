"""
What the queue needs to know of the host before it decides a request: see core/host.py.

Asked only for requests that depend on it, and for accounts only where an admin asks: looking one up
may go to a directory service, and everybody waits meanwhile. So the names of one request are few.
"""

import os
import pwd
from collections.abc import Sequence

from queuectl.protocol import Enqueue, JobSpec
from queuectl.tokens import CreateToken
from queuectld.core.admission import ACCOUNTS_MAX
from queuectld.core.host import NOTHING, Account, Host
from queuectld.core.peer import Peer
from queuectld.runtime.system_journal import SOCKET, JournalSocket
from queuectld.runtime.token_text import make_secret


def look_up(request: object, peer: Peer, journal_path: str = SOCKET) -> Host:
    """
    Return what *request*, of *peer*, depends on.
    """
    if not isinstance(request, Enqueue):
        return _for_token(request, peer) if isinstance(request, CreateToken) else NOTHING
    # Nearly all jobs are their sender's own and write a file.
    for spec in request.jobs:
        if spec.user is not None or spec.output != "file":
            return _look_up_for(request.jobs, peer, journal_path)
    return NOTHING


def _look_up_for(jobs: Sequence[JobSpec], peer: Peer, journal_path: str) -> Host:
    names = {spec.user for spec in jobs if spec.user is not None} if peer.admin else set()
    wants_journal = any(spec.output == "journal" for spec in jobs)
    if not names and not wants_journal:
        return NOTHING
    accounts = {}
    if len(names) <= ACCOUNTS_MAX:
        found = {name: _account(name, peer) for name in names}
        accounts = {name: account for name, account in found.items() if account is not None}
    return Host(accounts, wants_journal and _listens(journal_path))


def _for_token(request: CreateToken, peer: Peer) -> Host:
    accounts = {}
    if request.user is not None and peer.admin:
        account = _account(request.user, peer)
        if account is not None:
            accounts[request.user] = account
    return Host(accounts, secret=make_secret())


def _account(name: str, peer: Peer) -> Account | None:
    try:
        found = pwd.getpwnam(name)
        # Records are UTF-8: of an account that is not, nothing could be written down.
        f"{found.pw_name}{found.pw_dir}".encode()
    except (KeyError, ValueError, OSError):  # ValueError: that, and a NUL in the name.
        return None
    # Where there is one account for all, it has no uid in the queue.
    uid = None if peer.uid is None and found.pw_uid == os.geteuid() else found.pw_uid
    return Account(uid, found.pw_name, found.pw_dir)


def _listens(journal_path: str) -> bool:
    journal = JournalSocket(journal_path)
    try:
        return journal.connect()
    finally:
        journal.close()
