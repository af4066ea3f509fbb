"""
A client's mistake, or a request that cannot be granted now. It becomes one Refused response.
"""

from queuectl.views import RefusalCode


class Refusal(Exception):
    """
    What was refused, the rule, and what would be right, in one line. Nothing was changed.
    """

    #: Which job of a batch it is about.
    index: int | None = None

    def __init__(self, code: RefusalCode, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
