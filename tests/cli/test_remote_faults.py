"""
Requirements on what goes wrong between here and another machine's daemon: one line each, an exit
code, and no token given to whom it is not for.
"""

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_twin import GatewayTwin, Visit

from queuectl.cli import run
from queuectl.protocol import Config, Enqueued, GetConfig, Refused
from queuectl.remote import RemoteClient, parse_address

pytestmark = pytest.mark.usefixtures("stranger")

TOKEN = "qctl_abc_secret"


def accept_config(visit: Visit) -> None:
    visit.accept()
    request = visit.greet()
    assert isinstance(request, GetConfig)
    visit.send(Config(call=request.call, settings=[]))


# --- what goes wrong -------------------------------------------------------------------------

LATER = '{"type":"about:blank","detail":"%s","code":"try_later"}'
PROBLEM = '{"type":"about:blank","detail":"%s"}'


def http(status: str, body: str = "", *headers: str) -> str:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\n".join([*lines, "", body])


ANSWERS = {
    "denied": (
        http("401 Unauthorized", PROBLEM % "the token is not valid"),
        77,
        "does not accept the token (the token is not valid): it may have expired",
    ),
    "forbidden": (http("403 Forbidden", PROBLEM % "not you"), 77, "refuses: not you"),
    "misdirected": (http("421 Misdirected", PROBLEM % "no name"), 77, "refuses: no name"),
    "throttled": (http("429 Slow", LATER % "wait"), 75, "refuses for now: wait"),
    "too many": (http("503 Full", LATER % "close one"), 75, "refuses for now: close one"),
    "no daemon": (http("503 Away", PROBLEM % "nobody"), 69, "no daemon behind URL: nobody"),
    "no gateway behind a proxy": (http("502 Bad Gateway", "<html>"), 69, "URL: HTTP 502"),
    "older gateway": (http("404 Not Found"), 69, "no gateway of queuectl, or an older one: HTTP 4"),
    "another server": (http("200 OK", "hello"), 69, "no gateway of queuectl, or an older one"),
    "moved": (
        http("301 Moved", "", "Location: https://there/"),
        69,
        "HTTP 301, it is at https://there/",
    ),
    "no HTTP": ("SSH-2.0-OpenSSH_9.6\n\n", 69, "is no gateway of queuectl: "),
    "nothing": ("", 69, "hung up before it answered"),
    "half a head": ("HTTP/1.1 101 Sw", 69, "hung up before it answered"),
    "no upgrade": (http("101 Switching"), 69, "is no gateway of queuectl: "),
    "escapes": (http("403 No", PROBLEM % r"\u001b[31mred\n"), 77, r"refuses: \x1b[31mred\n"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_answers_is_told_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What it is, and an exit code that a script can act on; never the token.
    """
    text, code, message = ANSWERS[name]

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.answer(text)

    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)
    with GatewayTwin(script) as twin:
        assert code == run(["--host", twin.url, "status"])
    said = capsys.readouterr()
    assert "" == said.out
    assert message.replace("URL", twin.url) in said.err
    assert 1 == said.err.count("\n")
    assert TOKEN not in said.err


def test_a_refusal_of_the_daemon_is_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Inside the tunnel everything is as it is on the socket.
    """

    def script(visit: Visit) -> None:
        visit.accept()
        call = visit.greet().call
        visit.send(Refused(call=call, code="not_found", message="no job 7"))

    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)
    with GatewayTwin(script) as twin:
        monkeypatch.setenv("QUEUECTL_HOST", twin.url)
        assert 3 == run(["show", "7"])
    assert "queuectl: no job 7\n" == capsys.readouterr().err


def test_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Nothing is started: it is not this machine's to start.
    """
    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)

    assert 69 == run(["--host", "http://127.0.0.1:1", "status"])
    expected = "queuectl: no gateway answers at http://127.0.0.1:1 (Connection refused)\n"
    assert expected == capsys.readouterr().err


# --- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """
    A function that makes a self-signed certificate with its key for a name, in one file.
    """
    directory = tmp_path_factory.mktemp("tls")

    def make(name: str) -> Path:
        path = directory / f"{name.replace(':', '-')}.pem"
        if not path.exists():
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
            command += ["ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test"]
            command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
            command += ["-addext", f"subjectAltName={name}", "-keyout", str(path)]
            done = subprocess.run([*command, "-out", "-"], capture_output=True, check=True)
            path.write_bytes(path.read_bytes() + done.stdout)
        return path

    return make


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_of_ones_own_is_named(certificate: Callable[[str], Path]) -> None:
    """
    With `--ca` it is trusted, and the same protocol runs inside.
    """
    path = certificate("IP:127.0.0.1")
    twin = GatewayTwin(accept_config, tls=tls_of(path))
    with twin, RemoteClient(parse_address(twin.url), TOKEN, ca=str(path)) as client:
        assert [] == client.call(GetConfig(), Config).settings


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [
        ("IP:127.0.0.1", False, "self-signed certificate"),
        ("DNS:other.example", True, "IP address mismatch"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(
    certificate: Callable[[str], Path],
    name: str,
    trusted: bool,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    One that nobody vouches for, and one of another host. The token is not sent.
    """
    path = certificate(name)
    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)
    if trusted:
        monkeypatch.setenv("QUEUECTL_CA", str(path))

    with GatewayTwin(accept_config, tls=tls_of(path)) as twin:
        assert 69 == run(["--host", twin.url, "status"])
    said = capsys.readouterr().err
    assert f"the certificate of {twin.url} cannot be trusted: " in said
    assert reason in said
    assert "--ca FILE" in said


def test_the_systems_certificates_can_be_named_as_openssl_does(
    certificate: Callable[[str], Path],
) -> None:
    """
    SSL_CERT_FILE stands for the system's own file of certificates.
    """
    path = certificate("IP:127.0.0.1")
    with GatewayTwin(accept_config, tls=tls_of(path)) as twin:
        code = (
            "from queuectl.remote import *; from queuectl.protocol import *; import sys\n"
            f"client = RemoteClient(parse_address({twin.url!r}), 'x')\n"
            "print(client.call(GetConfig(), Config).settings)"
        )
        environment = {"PYTHONPATH": ":".join(sys.path), "SSL_CERT_FILE": str(path)}
        command = [sys.executable, "-P", "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert "[]\n" == done.stdout


def test_a_gateway_without_tls_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    https:// to a port that does not speak it.
    """
    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)

    def script(visit: Visit) -> None:
        visit.sock.recv(1)
        visit.answer(http("400 Bad Request"))

    with GatewayTwin(script) as twin:
        assert 69 == run(["--host", twin.url.replace("http", "https"), "status"])
    assert "no TLS with https://127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "No such file"), ("nothing", "holds no certificate in PEM")]
)
def test_a_file_of_certificates_must_be_one(
    tmp_path: Path,
    text: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A mistake in the option is a mistake in the option, not a missing gateway.
    """
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)

    with GatewayTwin(lambda visit: visit.sock.recv(1)) as twin:
        url = twin.url.replace("http", "https")
        assert 2 == run(["--host", url, "--ca", str(path), "status"])
    assert f"--ca {path}: {reason}" in capsys.readouterr().err


def test_a_person_who_pressed_a_key_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Completions give a gateway that does not answer a second, and say nothing about it.
    """
    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)

    def script(visit: Visit) -> None:
        visit.read_request()
        assert b"" == visit.sock.recv(1)  # Its patience is shorter than this socket's.

    with GatewayTwin(script) as twin:
        assert 0 == run(["--host", twin.url, "completion", "words", "fish", "--", "show", ""])
    assert "" == capsys.readouterr().err


def test_the_way_back_names_the_host(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What is offered to be typed next leads to the same machine: by the option, where that was given.
    """
    monkeypatch.setenv("QUEUECTL_TOKEN", TOKEN)

    def script(visit: Visit) -> None:
        visit.accept()
        visit.send(Enqueued(call=visit.greet().call, ids=["7"]))

    with GatewayTwin(script) as twin:
        assert 69 == run(["--host", twin.url, "run", "true"])
    assert f"job 7 goes on: queuectl --host {twin.url} logs -f 7\n" in capsys.readouterr().err
