"""
What comes back from the forms of the pages, and where their sender goes next.

A form is a POST with urlencoded fields; the guard has bounded its size and compared its token by
the time it is read here. Who posted is sent on with 303, so that reloading repeats nothing. What a
form names as the next place is taken only if it is a path of ours.
"""

from urllib.parse import parse_qsl

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from queuectl.errors import UsageError
from queuectl.web.bodies import FORM_FIELDS_MAX
from queuectl.web.pages_rendering import Said, say, show


class Form(Struct, frozen=True):
    """
    The fields of a form, each with its values in the order of the page.
    """

    fields: dict[str, list[str]]

    def text(self, name: str) -> str:
        """
        Return a field's value without blanks around it; empty if it was left out.
        """
        return self.fields.get(name, [""])[-1].strip()

    def raw(self, name: str) -> str:
        """
        Return a field's value as it was typed, lines ended as on this system.
        """
        return self.fields.get(name, [""])[-1].replace("\r\n", "\n")

    def all(self, name: str) -> list[str]:
        """
        Return every value of a field.
        """
        return self.fields.get(name, [])

    def flag(self, name: str) -> bool:
        """
        Return whether a box was ticked.
        """
        return name in self.fields

    def number(self, name: str) -> int | None:
        """
        Return a whole number; None if the field was left empty. Raises UsageError.
        """
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"{name}: must be a whole number; got {text!a}") from None


async def read_form(request: Request) -> Form:
    """
    Return the fields that were posted. Raises UsageError.
    """
    body = await request.body()
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX, errors="strict"
        )
    except ValueError as error:
        raise UsageError(
            "the form cannot be read: it has too many fields or is not UTF-8"
        ) from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return Form(fields)


def local_path(text: str, default: str) -> str:
    """
    Return *text* if it is a path of this site, else *default*.
    """
    ours = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if ours and text.isprintable() and " " not in text else default


def go(request: Request, where: str, said: Said | None = None) -> Response:
    """
    Send the visitor on to a path of ours, with what is to be said there.
    """
    response = RedirectResponse(where, 303)
    if said is not None:
        say(response, said, secure=request.url.scheme == "https")
    return response


async def confirm(
    request: Request, form: Form, question: str, *, yes: str, back: str, details: str = ""
) -> Response:
    """
    Return the page that asks before something is done, and sends the same form again if it may be.
    """
    kept = [(name, each) for name, values in form.fields.items() for each in values]
    kept = [(name, value) for name, value in kept if name not in ("csrf_token", "confirmed")]
    return await show(
        request,
        "confirm.html",
        title="Are you sure?",
        question=question,
        details=details,
        yes=yes,
        back=back,
        action=request.url.path,
        kept=kept,
    )
