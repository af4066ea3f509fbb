"""
A token's text: made of random bits, and compared with what is kept of it.

What is kept is the SHA-256 of the secret. That is enough where a password's hash would not be: 256
random bits are not found by trying, however fast. Text that is no token, an id that nobody has and
a secret that is wrong take the same steps, and the comparison takes the same time.
"""

import hashlib
import hmac
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable

from queuectl.errors import UsageError
from queuectl.tokens import id_of
from queuectld.core.host import Secret
from queuectld.core.records import TokenMade

SECRET_BYTES = 32
_NUMBER_BYTES = 5
# Compared with where there is no token: the digest of nothing that is 32 bytes long.
_NO_DIGEST = bytes(32)


def make_secret() -> Secret:
    """
    Return a new token's secret and number.
    """
    text = urlsafe_b64encode(os.urandom(SECRET_BYTES)).rstrip(b"=").decode()
    return Secret(int.from_bytes(os.urandom(_NUMBER_BYTES)), text, _digest(text))


def match(text: str, find: Callable[[str], TokenMade | None]) -> TokenMade | None:
    """
    Return the token whose text this is, by *find* from its id. None: there is none.
    """
    try:
        token_id = id_of(text)
        secret = text.split("_", 2)[2]
    except UsageError:
        token_id = secret = ""
    token = find(token_id)
    digest = _NO_DIGEST if token is None else token.digest
    return token if hmac.compare_digest(_digest(secret), digest) else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
