"""
Tokens: what other programs and browsers bring to act as an account, and within which scopes.

A token's text is on the one page that answers its making, and never again. Who came with a token
cannot make others: the daemon refuses, and the page says so instead of offering it.
"""

from starlette.requests import Request
from starlette.responses import Response

from queuectl.durations import parse_duration
from queuectl.errors import RequestRefused
from queuectl.protocol import SCOPES, Done
from queuectl.tokens import CreateToken, ListTokens, RevokeToken, TokenCreated, Tokens
from queuectl.web.pages_forms import Form, confirm, go, read_form
from queuectl.web.pages_rendering import Said, field_of, reason_of, show
from queuectl.web.visitor import visitor_of

#: Lifetimes that the form offers, the usual one first.
LIFETIMES = (("30d", "30 days"), ("90d", "90 days"), ("1d", "1 day"), ("", "Until revoked"))
SCOPE_WORDS = {
    "read": "Look at jobs, output, workers and settings",
    "submit": "Enqueue jobs",
    "manage": "Change and cancel jobs; what the account may do beyond",
}


async def tokens_page(request: Request) -> Response:
    """
    GET /tokens.
    """
    return await _show(request, None, {}, None, 200)


async def act_on_tokens(request: Request) -> Response:
    """
    POST /tokens: create one or revoke one.
    """
    form = await read_form(request)
    link = visitor_of(request).link
    if form.text("action") == "revoke":
        token_id = form.text("id")
        if not form.flag("confirmed"):
            return await confirm(
                request,
                form,
                f"Revoke token {token_id}?",
                yes="Yes, revoke",
                back="/tokens",
                details="Whoever uses it is refused from then on, and open connections end.",
            )
        try:
            await link.call(RevokeToken(id=token_id), Done)
        except RequestRefused as error:
            return go(request, "/tokens", reason_of(error))
        return go(request, "/tokens", Said(f"Revoked token {token_id}."))
    try:
        created = await link.call(_create(form), TokenCreated)
    except RequestRefused as error:
        return await _show(request, None, {field_of(error) or "name": str(error)}, form, 422)
    except ValueError as error:
        return await _show(request, None, {"lifetime": str(error)}, form, 422)
    return await _show(request, created, {}, None, 200)


def _create(form: Form) -> CreateToken:
    lifetime = form.text("lifetime")
    return CreateToken(
        name=form.text("name"),
        scopes=[each for each in SCOPES if each in form.all("scope")],  # type: ignore[misc]
        lifetime_ms=parse_duration(lifetime) if lifetime else None,
        user=form.text("user") or None,
    )


async def _show(
    request: Request,
    created: TokenCreated | None,
    errors: dict[str, str],
    form: Form | None,
    status_code: int,
) -> Response:
    visitor = visitor_of(request)
    answer = await visitor.link.call(ListTokens(), Tokens)
    return await show(
        request,
        "tokens.html",
        title="Tokens",
        status_code=status_code,
        tokens=answer.tokens,
        created=created,
        errors=errors,
        typed=form or Form({"scope": ["read"]}),
        may_create=visitor.link.welcome.token is None,
        lifetimes=LIFETIMES,
        scopes=[(each, SCOPE_WORDS[each]) for each in SCOPES],
    )
