"""
Requirements on two machines: two network namespaces with a cable between them, a gateway with TLS
in one, a command line in the other, which has nothing of the first but its address, the
certificate of its authority and a token.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from daemon_process import DEADLINE_S, DaemonProcess
from gateway_process import GatewayProcess
from remote_shell import RemoteShell

#: Addresses that are nobody's (RFC 5737).
THERE, HERE = "192.0.2.1", "192.0.2.2"
TOOLS = ("ip", "openssl")


def tool(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, timeout=DEADLINE_S, text=True, check=False)
    assert 0 == done.returncode, f"{words}: {done.stderr}"


class Machines(NamedTuple):
    """
    Commands that run what follows them in the one namespace and in the other.
    """

    there: tuple[str, ...]
    here: tuple[str, ...]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """
    Two network namespaces and a cable.
    """
    missing = [each for each in TOOLS if shutil.which(each) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"two network namespaces need root and {', '.join(missing or TOOLS)}")
    names = [f"queuectl-{side}-{os.getpid()}" for side in ("there", "here")]
    made: list[str] = []
    try:
        for name in names:
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no network namespace can be made here: {done.stderr.decode()}")
            made.append(name)
        there, here = names
        cable = ("type", "veth", "peer", "name", "cable", "netns", here)
        tool("ip", "-n", there, "link", "add", "cable", *cable)
        for name, address in ((there, THERE), (here, HERE)):
            tool("ip", "-n", name, "address", "add", f"{address}/30", "dev", "cable")
            tool("ip", "-n", name, "link", "set", "cable", "up")
            tool("ip", "-n", name, "link", "set", "lo", "up")
        prefix = ("ip", "netns", "exec")
        yield Machines((*prefix, there), (*prefix, here))
    finally:
        for name in made:
            tool("ip", "netns", "delete", name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A directory with an authority's certificate, ca.pem, and one that it gave to the other machine.
    """
    directory = tmp_path_factory.mktemp("tls")
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    new += ["-nodes", "-days", "2"]
    use = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    own = [*use, "-subj", "/CN=authority", "-keyout", f"{directory}/ca.key", "-out"]
    tool(*new, *own, f"{directory}/ca.pem")
    signed = ["-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key", "-subj", "/CN=there"]
    signed += ["-addext", "basicConstraints=CA:FALSE", "-addext", f"subjectAltName=IP:{THERE}"]
    tool(*new, *signed, "-keyout", f"{directory}/there.key", "-out", f"{directory}/there.pem")
    return directory


@pytest.fixture(scope="module")
def there(
    web_daemon: DaemonProcess, machines: Machines, authority: Path
) -> Iterator[GatewayProcess]:
    """
    The other machine's gateway, on its address, with its certificate.
    """
    tls = ("--tls-cert", f"{authority}/there.pem", "--tls-key", f"{authority}/there.key")
    options = ("--bind", THERE, "--tokens-only", *tls)
    gateway = GatewayProcess(web_daemon, *options, command=machines.there)
    try:
        yield gateway.start()
    finally:
        gateway.clean_up()


@pytest.fixture
def here(there: GatewayProcess, machines: Machines, authority: Path, tmp_path: Path) -> RemoteShell:
    """
    A command line on this machine, set up as the documentation says: a token in its file.
    """
    shell = RemoteShell(tmp_path, there, "", machines.here)
    del shell.environment["QUEUECTL_TOKEN"]
    shell.environment["QUEUECTL_CA"] = f"{authority}/ca.pem"
    path = tmp_path / ".config/queuectl/token"
    path.parent.mkdir(parents=True)
    path.write_text(f"{there.url} {there.make_token()}\n")
    path.chmod(0o600)
    return shell


def test_a_queue_is_used_from_another_machine(here: RemoteShell, there: GatewayProcess) -> None:
    """
    What people do: enqueue, run with the job's own exit code, follow, look at what is dead and
    retry it. The addresses and the log say where it came from.
    """
    assert f"https://{THERE}:{there.port}" == there.url
    job = here.ok("enqueue", "for n in 1 2 3; do echo line $n; sleep 0.1; done")
    assert "line 1\nline 2\nline 3" == here.ok("logs", "-f", job)
    assert f"{job} completed" == here.ok("wait", job)

    outcome = here("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (7, "out\nerr\n") == (outcome.code, outcome.out)

    marker = here.home / "mended"
    failing = here.ok("enqueue", "--max-retries", "0", f"test -e {marker} && echo mended")
    assert 1 == here("wait", failing).code
    assert failing in here.ok("--quiet", "dlq", "list").split()
    marker.touch()
    here.ok("dlq", "retry", failing)
    assert "mended" == here.ok("logs", "-f", failing)
    assert failing not in here.ok("--quiet", "dlq", "list").split()
    assert HERE in {each["address"] for each in there.events("web_request")}


def test_the_cable_is_needed(here: RemoteShell, machines: Machines, there: GatewayProcess) -> None:
    """
    It is the network that is used: without it nothing is reached, and with it again everything is.
    """
    tool(*machines.here, "ip", "link", "set", "cable", "down")
    outcome = here("status")
    tool(*machines.here, "ip", "link", "set", "cable", "up")

    expected = f"queuectl: no gateway answers at {there.url} (Network is unreachable)\n"
    assert (69, expected) == (outcome.code, outcome.err)
    here.ok("status")


def test_a_certificate_must_be_trusted(here: RemoteShell, there: GatewayProcess) -> None:
    """
    Without the authority's certificate nothing is sent, by default too.
    """
    ca = here.environment.pop("QUEUECTL_CA")
    outcome = here("status")
    assert 69 == outcome.code
    assert f"the certificate of {there.url} cannot be trusted: " in outcome.err

    here.ok("--ca", ca, "status")
    here.environment["SSL_CERT_FILE"] = ca
    here.ok("status")


def test_nothing_is_sent_without_tls(here: RemoteShell, there: GatewayProcess) -> None:
    """
    Neither asked for plainly, nor to a gateway that offers it.
    """
    outcome = here("--host", there.url.replace("https", "http"), "status")

    assert 2 == outcome.code
    assert "not without TLS" in outcome.err
