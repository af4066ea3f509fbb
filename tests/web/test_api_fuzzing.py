"""
The whole API as a fuzzer reads its document: what it says is what is served, whatever is sent.

QUEUECTL_SEED makes other requests than the usual ones.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from gateway_process import GatewayProcess

#: Left out: random commands must not be run, and waiting may take as long as it was asked to.
LEFT_OUT = ("start_workers", "wait_for_jobs")
#: How what does not fit is refused. A partial batch is not: it is said what of it was left out.
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 414, 415]

[[operations]]
include-operation-id = "create_jobs"
parameters = { "query.partial" = "false" }
"""
#: That no token gets nowhere, and a body where none belongs neither, is the guard's, who refuses
#: before there is a route: with 429 after a few, with 400 before 405.
UNCHECKED = ("ignored_auth", "unsupported_method", "positive_data_acceptance")


def test_the_api_is_as_its_document_says(
    gateway: GatewayProcess, client: httpx.Client, tmp_path: Path
) -> None:
    """
    No answer is a fault of the server; each has a status, a type and a body that the document has
    for it; what does not fit into the document is refused.
    """
    seed = os.environ.get("QUEUECTL_SEED", "1")
    done = client.post("/api/v1/jobs", json={"command": "echo out; exit 3", "max_retries": 0})
    client.post("/api/v1/wait", json={"ids": [done.json()["id"]]})
    client.post("/api/v1/workers/stop")
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [sys.executable, "-c", program, "--config-file", str(settings), "--no-color", "run"]
    command += [f"{gateway.url}/api/v1/openapi.json", "--seed", seed, "--max-examples", "4"]
    command += ["--header", f"Authorization: {client.headers['Authorization']}"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--warnings", "off"]
    command += ["--checks", "all", "--exclude-checks", ",".join(UNCHECKED)]
    command += [word for name in LEFT_OUT for word in ("--exclude-operation-id", name)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert 0 == ran.returncode, f"QUEUECTL_SEED={seed}\n{ran.stdout[-8000:]}{ran.stderr[-2000:]}"
    assert "Stateful" in ran.stdout
    assert [] == client.get("/api/v1/workers").json()["workers"]
