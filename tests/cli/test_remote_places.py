"""
Requirements on which gateway is asked and with which token.
"""

from pathlib import Path

import pytest

from queuectl.cli import run
from queuectl.errors import AccessDenied, UsageError
from queuectl.remote import Address, find_token, parse_address, token_path

pytestmark = pytest.mark.usefixtures("stranger")

# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("https://build", Address("https", "build", 443), "https://build"),
        ("build", Address("https", "build", 443), "https://build"),
        ("build:8642", Address("https", "build", 8642), "https://build:8642"),
        ("https://Build:443/", Address("https", "build", 443), "https://build"),
        ("https://a.b/q/", Address("https", "a.b", 443, "/q"), "https://a.b/q"),
        ("https://[::1]:8642", Address("https", "::1", 8642), "https://[::1]:8642"),
        ("http://localhost:80", Address("http", "localhost", 80), "http://localhost"),
        ("http://127.0.0.1:8642", Address("http", "127.0.0.1", 8642), "http://127.0.0.1:8642"),
        ("http://[::1]", Address("http", "::1", 80), "http://[::1]"),
        ("https://bücher.example", Address("https", "xn--bcher-kva.example", 443), None),
    ],
)
def test_an_address_is_a_url(text: str, address: Address, url: str | None) -> None:
    """
    The scheme is https unless another is given, the port the scheme's own.
    """
    assert address == parse_address(text)
    if url is not None:
        assert url == parse_address(text).url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "ftp://build",
        "ws://build",
        "https://user:secret@build",
        "https://build?x=1",
        "https://build/#x",
        "https://build:0",
        "https://build:65536",
        "https://build:x",
        "https://bu ild",
        "https://build/a b",
        "https://build\r\nX: y",
        "https://[::1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """
    With an example of what would be.
    """
    with pytest.raises(UsageError, match="must be a gateway's address such as https://"):
        parse_address(text)


def test_without_tls_only_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A token does not cross a network that anybody may listen to, unless that is asked for.
    """
    for text in ("http://build:8642", "http://10.0.0.1", "http://127.0.0.1.example.org"):
        with pytest.raises(UsageError, match=r"not without TLS.*QUEUECTL_ALLOW_HTTP=1"):
            parse_address(text)
    monkeypatch.setenv("QUEUECTL_ALLOW_HTTP", "1")

    assert Address("http", "build", 8642) == parse_address("http://build:8642")


@pytest.mark.parametrize(
    ("words", "environment", "refusal"),
    [
        (["--host", "https://a", "--socket", "/s"], {}, "--host and --socket: give one of them"),
        ([], {"QUEUECTL_HOST": "https://a", "QUEUECTL_SOCKET": "/s"}, "unset one"),
        (["--ca", "x"], {}, "--ca: goes with --host"),
        (["--ca", "x", "--socket", "/s"], {"QUEUECTL_HOST": "https://a"}, "--ca: goes with --host"),
    ],
)
def test_one_place_is_asked(
    words: list[str],
    environment: dict[str, str],
    refusal: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A socket and a host exclude each other, each beats the other's variable, and nothing is guessed.
    """
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert 2 == run([*words, "status"])
    assert refusal in capsys.readouterr().err


# --- tokens ----------------------------------------------------------------------------------

BUILD = Address("https", "build", 443)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_comes_from_the_environment_or_a_file(
    stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In this order: QUEUECTL_TOKEN, QUEUECTL_TOKEN_FILE, the file in the user's configuration.
    """
    write(stranger / ".config/queuectl/token", "of-the-home\n")
    assert "of-the-home" == find_token(BUILD)

    monkeypatch.setenv("XDG_CONFIG_HOME", str(stranger / "xdg"))
    write(stranger / "xdg/queuectl/token", "of-xdg\n")
    assert "of-xdg" == find_token(BUILD)

    monkeypatch.setenv("QUEUECTL_TOKEN_FILE", str(write(stranger / "named", "of-the-file")))
    assert "of-the-file" == find_token(BUILD)

    monkeypatch.setenv("QUEUECTL_TOKEN", "of-the-variable")
    assert "of-the-variable" == find_token(BUILD)


def test_a_file_may_hold_tokens_of_several_hosts(stranger: Path) -> None:
    """
    A line for the host beats one for all; a token of one host is never sent to another.
    """
    path = stranger / ".config/queuectl/token"
    write(path, "# mine\nhttps://other x\n\nhttps://build/ right\nhttps://build:1 y\n")
    assert "right" == find_token(BUILD)
    with pytest.raises(AccessDenied, match="no token for https://third"):
        find_token(BUILD._replace(host="third"))

    write(path, "for-all\nhttps://build right\n")
    assert "right" == find_token(BUILD)
    assert "for-all" == find_token(BUILD._replace(host="third"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_can_read_is_refused(stranger: Path, mode: int) -> None:
    """
    With the command that mends it.
    """
    path = write(stranger / ".config/queuectl/token", "secret", mode)
    expected = f"{path} is open to others (mode {mode:o}, needs 600): chmod 600 {path}"
    with pytest.raises(AccessDenied) as refused:
        find_token(BUILD)

    assert expected == str(refused.value)


@pytest.mark.parametrize("text", ["a b c\r\n", "x" * 513, "tökén", "x\x00y", "x" * 70_000])
def test_what_is_no_token_is_not_sent(
    stranger: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nothing that would be another header, nor another file; and it is not repeated in the error.
    """
    write(stranger / ".config/queuectl/token", text)
    with pytest.raises(AccessDenied, match=r"no token|no token file") as refused:
        find_token(BUILD)

    assert text[:5] not in str(refused.value)


def test_without_a_token_it_is_said_where_one_comes_from(stranger: Path) -> None:
    """
    Both places, and the command that makes one.
    """
    with pytest.raises(AccessDenied) as refused:
        find_token(BUILD)

    assert f"{stranger}/.config/queuectl/token" == token_path()
    assert str(refused.value) == (
        f"no token for https://build: neither in QUEUECTL_TOKEN nor in {token_path()}; "
        "to make one, there: queuectl web token create"
    )
