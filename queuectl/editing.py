"""
The message that changes jobs which were enqueued and have not started.
"""

from queuectl.protocol import Message, Selection


class Edit(Message, frozen=True, tag="edit"):
    """
    Give each selected job another priority, and with it another place in the line. Answered by
    Acted, which may say `more`.

    A job that runs or has finished keeps its own: named, it is an error; a filter passes over it.
    """

    select: Selection
    priority: int
