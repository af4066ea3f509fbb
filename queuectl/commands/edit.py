"""
`edit`: another priority for jobs that were enqueued and have not started.
"""

from queuectl.commands.act import ask_and_report
from queuectl.editing import Edit
from queuectl.errors import UsageError
from queuectl.jobspec import fields_of_options
from queuectl.options import Arguments, Command, Option
from queuectl.selection import FILTER_OPTIONS, selection
from queuectl.session import Session


def edit(session: Session, arguments: Arguments) -> int:
    """
    Change jobs and print which.
    """
    text = arguments.value("priority")
    if text is None:
        raise UsageError("edit: nothing to change; give --priority N")
    priority: int = fields_of_options({"priority": text}, session.now)["priority"]
    request = Edit(select=selection(arguments), priority=priority)
    return ask_and_report(session, "edited", request)


COMMANDS = (
    Command(
        ("edit",),
        "give jobs that have not started another priority",
        edit,
        operands="ID... | --state STATE | --queue NAME | --all",
        operands_max=None,
        options=(
            Option("priority", "larger runs sooner: an integer, or high, medium, low", value="N"),
            *FILTER_OPTIONS,
        ),
        details=(
            "They take the place in the line that they would have had with it from the beginning.\n"
            "Above 0 is for admins, as with enqueue."
        ),
        examples=(
            "queuectl edit 17 --priority high",
            "queuectl edit --queue nightly --priority -10",
        ),
    ),
)
