"""
`web token`: what programs and other hosts bring in place of an account.
"""

from typing import Any, cast

from queuectl.errors import EXIT_DONE, RequestRefused, UsageError, exit_code
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import SCOPES, Done
from queuectl.session import Session
from queuectl.tables import moment, print_pairs, print_table, text_or_dash
from queuectl.times import format_local, format_time
from queuectl.tokens import (
    CreateToken,
    ListTokens,
    RevokeToken,
    Scope,
    TokenCreated,
    Tokens,
    TokenView,
)


def token_document(token: TokenView) -> dict[str, Any]:
    """
    Return a token as JSON. Its text is not among what is known of it.
    """
    return {
        "id": token.id,
        "name": token.name,
        "user": token.user,
        "scopes": token.scopes,
        "created_at": format_time(token.created_at),
        "created_by": token.created_by,
        "expires_at": _time_or_none(token.expires_at),
        "last_used_at": _time_or_none(token.last_used_at),
    }


def _time_or_none(at: int | None) -> str | None:
    return None if at is None else format_time(at)


def create(session: Session, arguments: Arguments) -> int:
    """
    Make a token and print it, for the only time.
    """
    request = CreateToken(
        scopes=_scopes(arguments),
        name=arguments.operands[0] if arguments.operands else "",
        lifetime_ms=_lifetime_ms(arguments),
        user=arguments.value("user"),
    )
    with session.connect() as client:
        created = client.call(request, TokenCreated)
    if session.structured:
        session.print_json({**token_document(created.token), "token": created.text})
    elif session.quiet:
        session.print(created.text)
    else:
        token = created.token
        pairs = [("token", created.text), ("id", token.id), ("scopes", ", ".join(token.scopes))]
        if token.user is not None:
            pairs.append(("user", token.user))
        expires = "never" if token.expires_at is None else format_local(token.expires_at)
        pairs.append(("expires", expires))
        print_pairs(session, pairs)
        session.flush()
        session.complain("keep the token: it is told only now")
    return EXIT_DONE


def _scopes(arguments: Arguments) -> list[Scope]:
    given = [scope for text in arguments.values("scope") for scope in text.split(",")]
    for scope in given:
        if scope not in SCOPES:
            raise UsageError(f"--scope: must be some of {','.join(SCOPES)}; got {scope!r}")
    return cast("list[Scope]", given or list(SCOPES))


def _lifetime_ms(arguments: Arguments) -> int | None:
    from queuectl.durations import parse_duration

    text = arguments.value("expires")
    if text is None or text == "never":
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--expires: {error}; or never; got {text!r}") from error


def list_tokens(session: Session, arguments: Arguments) -> int:
    """
    Print every token that there is for us.
    """
    with session.connect() as client:
        tokens = client.call(ListTokens(user=arguments.value("user")), Tokens).tokens
    if session.structured:
        session.print_json_array(token_document(token) for token in tokens)
    elif session.quiet:
        for token in tokens:
            session.print(token.id)
    else:
        header = ("ID", "USER", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "NAME")
        print_table(session, header, [_row(token, session.now) for token in tokens])
    return EXIT_DONE


def _row(token: TokenView, now: int) -> tuple[str, ...]:
    return (
        token.id,
        text_or_dash(token.user),
        ",".join(token.scopes),
        moment(token.created_at, now),
        "never" if token.expires_at is None else moment(token.expires_at, now),
        moment(token.last_used_at, now),
        token.name,
    )


def revoke(session: Session, arguments: Arguments) -> int:
    """
    Forget tokens. Each that is not there is named, and the others are revoked all the same.
    """
    revoked: list[str] = []
    refusals: list[RequestRefused] = []
    with session.connect() as client:
        for token_id in dict.fromkeys(arguments.operands):
            try:
                client.call(RevokeToken(id=token_id), Done)
            except RequestRefused as refusal:
                refusals.append(refusal)
            else:
                revoked.append(token_id)
    if session.structured:
        session.print_json({"revoked": revoked})
    elif session.quiet:
        for token_id in revoked:
            session.print(token_id)
    elif revoked:
        session.print(f"revoked {' '.join(revoked)}")
    for each in refusals:
        session.complain(str(each))
    return exit_code(refusals[0].code) if refusals else EXIT_DONE


COMMANDS = (
    Command(
        ("web", "token", "create"),
        "make a token, for programs and other hosts; it is printed this once",
        create,
        operands="[NAME]",
        operands_max=1,
        options=(
            Option(
                "scope",
                "what it allows: read, submit, manage, joined with commas (default: all)",
                value="SCOPES",
                repeat=True,
            ),
            Option("expires", "how long it is good, like 30d (default: never)", value="DURATION"),
            Option("user", "whose it is to be (admins)", value="NAME"),
        ),
        details=(
            "Whoever has the token does what your account may, within its scopes. NAME is for you: "
            "what it is for. read looks, submit enqueues, manage changes everything else. A job "
            "runs with the whole account: give submit only to whom you would give a shell."
        ),
        examples=(
            "queuectl web token create laptop --expires 30d",
            "queuectl web token create monitoring --scope read",
        ),
    ),
    Command(
        ("web", "token", "list"),
        "list your tokens; admins everybody's",
        list_tokens,
        options=(Option("user", "of this account alone (admins)", value="NAME"),),
    ),
    Command(
        ("web", "token", "revoke"),
        "make tokens good for nothing, and end the connections that brought them",
        revoke,
        operands="ID...",
        operands_min=1,
        operands_max=None,
    ),
)
