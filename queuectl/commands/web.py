"""
`web`: the gateway that browsers and other hosts talk to, and the tokens that they bring.
"""

from queuectl.commands import web_tokens
from queuectl.errors import EXIT_DONE, UsageError
from queuectl.options import Arguments, Command, Option
from queuectl.session import Session


def web(session: Session, arguments: Arguments) -> int:
    """
    Serve the web until told to stop.
    """
    session.refuse_host("web", "serves the queue of this machine")
    try:
        from queuectl.web.configuration import BIND_DEFAULT, PORT_DEFAULT, configure
        from queuectl.web.serving import serve
    except ImportError as error:
        raise UsageError(
            f"web: {error.name} is not installed: pip install 'queuectl[web]'"
        ) from error
    port = arguments.count("port")
    tokens_only = arguments.flag("tokens-only")
    configuration = configure(
        socket=session.place.socket,
        bind=arguments.value("bind") or BIND_DEFAULT,
        port=PORT_DEFAULT if port is None else port,
        allow_hosts=tuple(arguments.values("allow-host")),
        tls_cert=arguments.value("tls-cert"),
        tls_key=arguments.value("tls-key"),
        behind_proxy=tuple(arguments.values("behind-proxy")),
        tokens_only=tokens_only,
    )
    if not tokens_only:
        session.connect().close()  # Starts the user's own daemon, if that is ours to do.

    def announce(url: str, link: str | None) -> None:
        if session.structured:
            session.print_json({"url": url, "link": link})
        elif session.quiet:
            session.print(link or url)
        elif link:
            session.print(f"queuectl web: {url}\n\nOpen this, once, within ten minutes:\n{link}\n")
        else:
            session.print(f"queuectl web: {url}")
        session.flush()

    serve(configuration, announce)
    return EXIT_DONE


COMMANDS = (
    Command(
        ("web",),
        "serve the dashboard and the REST API; prints a one-time link",
        web,
        options=(
            Option("bind", "IP address to listen at (default: 127.0.0.1)", value="ADDRESS"),
            Option("port", "TCP port (default: 8642); 0 for any", value="N", short="p"),
            Option(
                "allow-host",
                "a further name that browsers may use for it",
                value="NAME",
                repeat=True,
            ),
            Option("tls-cert", "file with the certificate chain, PEM", value="FILE"),
            Option("tls-key", "file with its key, PEM", value="FILE"),
            Option(
                "behind-proxy",
                "address or network of the proxy that alone may connect",
                value="ADDRESS",
                repeat=True,
            ),
            Option("tokens-only", "print no one-time link: everybody needs a token"),
        ),
        details="Whoever has a token has its account's rights, no more: see docs/web.md.",
        examples=("queuectl web", "queuectl web --port 9000"),
    ),
    *web_tokens.COMMANDS,
)
