"""
The headers that tell browsers to be strict with what the gateway answers: nothing runs, loads, is
framed or is sent on but what is the gateway's own; and nothing is kept, but what says that it may.

They are added where answers leave; see connections.py.
"""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STRICT_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # What frame-ancestors says, for browsers that do not know it.
    # Not no-referrer, with which a browser's forms come from the origin `null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
#: What a gateway with TLS says to browsers: never come without.
HSTS = {"Strict-Transport-Security": "max-age=31536000"}
#: What is shown to one visitor is for nobody else, and not for later.
UNSTORED = {"Cache-Control": "no-store"}


def strict_headers(*, tls: bool) -> dict[str, str]:
    """
    Return what every answer has, of a gateway with TLS or without.
    """
    return STRICT_HEADERS | HSTS if tls else STRICT_HEADERS
