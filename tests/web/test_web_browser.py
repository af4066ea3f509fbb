"""
Requirement: a real browser gets in as a person would, and nobody else's page gets anything from it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from chromium import opened
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess

Gateways = Callable[..., GatewayProcess]

#: A page that tries everything that a page of another origin can with a browser that is logged in.
EVIL = """
<!doctype html><title>evil</title><iframe name="target"></iframe>
<form id="form" method="post" target="target" action="GATEWAY/enqueue">
<input name="command" value="touch /evil"><input name="csrf_token" value="x"></form>
<script>
const tried = async (name, promise) => [name, await promise.then(() => "done", () => "failed")];
const loaded = (make) => new Promise((done, failed) => { const it = make();
  it.onload = it.onopen = done; it.onerror = failed; });
const command = JSON.stringify({command: "touch /evil"});
const post = (type) => fetch("GATEWAY/api/v1/jobs", {method: "POST", mode: "no-cors",
  credentials: "include", headers: {"Content-Type": type}, body: command});
document.getElementById("form").submit();
window.tries = Promise.all([
  tried("read", fetch("GATEWAY/api/v1/jobs", {credentials: "include"})),
  tried("ask first", fetch("GATEWAY/api/v1/jobs", {method: "POST", credentials: "include",
    headers: {"Content-Type": "application/json"}, body: command})),
  tried("socket", loaded(() => new WebSocket("SOCKETS/api/v1/events/socket"))),
  tried("events", loaded(() => new EventSource("GATEWAY/api/v1/events", {withCredentials: true}))),
  tried("image", loaded(() => Object.assign(new Image(), {src: "GATEWAY/favicon.ico"}))),
  tried("script", loaded(() => document.head.appendChild(
    Object.assign(document.createElement("script"), {src: "GATEWAY/api/v1/status"})))),
  post("text/plain").catch(() => 0).then(() => ["post", "failed"]),
]);
</script>
"""


@contextmanager
def site(page: str) -> Iterator[int]:
    """
    Serve *page* as somebody else's site; yield its port.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_browser_logs_in_and_out(gateway: GatewayProcess, browser: Any) -> None:
    """
    Its form is taken for what it is, sent by a page of ours, and leads to the page that was asked
    for; after logging out the page asks again.
    """
    with opened(browser, None, gateway.url) as tab:
        tab.goto("/jobs?state=dead")
        tab.fill("#token", gateway.make_token())
        tab.click("button")
        tab.wait_for_url(f"{gateway.url}/jobs?state=dead")
        tab.locator("form[action='/logout'] button").click()
        tab.wait_for_url(f"{gateway.url}/login")
        tab.goto("/jobs")
        assert tab.url.startswith(f"{gateway.url}/login?next=")


def test_a_browser_opens_the_link(daemon: DaemonProcess, gateways: Gateways, browser: Any) -> None:
    """
    The printed link leads to the dashboard, even if it was clicked in somebody's page, and its
    cookie is out of scripts' reach.
    """
    gateway = gateways(daemon).start()
    with (
        site(f'<a href="{gateway.link}">open</a>') as port,
        opened(browser, None, gateway.url) as tab,
    ):
        tab.goto(f"http://localhost:{port}/")
        tab.click("a")
        tab.wait_for_url(f"{gateway.url}/")
        assert "queuectl-" not in tab.evaluate("document.cookie")
        (cookie,) = [each for each in tab.context.cookies() if each["httpOnly"]]
        assert (f"queuectl-{gateway.port}", "Strict") == (cookie["name"], cookie["sameSite"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin(gateway: GatewayProcess, browser: Any, host: str) -> None:
    """
    Neither a page of the same host, to which the browser sends the cookie, nor one of another host
    reads, changes or opens anything.
    """
    user = gateway.client()
    user.post("/login", data={"token": gateway.make_token()})
    context = browser.new_context()
    context.add_cookies(
        [{"name": n, "value": v, "url": gateway.url} for n, v in user.cookies.items()]
    )
    refused = len(gateway.events("web_refused"))
    evil = EVIL.replace("GATEWAY", gateway.url).replace("SOCKETS", f"ws://127.0.0.1:{gateway.port}")
    with site(evil) as port:
        tab = context.new_page()
        tab.goto(f"http://{host}:{port}/")
        tries = dict(tab.evaluate("window.tries"))
        context.close()
    assert {"failed"} == set(tries.values()), tries
    assert 0 == sum(gateway.daemon.status().jobs.values())
    found = gateway.events("web_refused")[refused:]
    assert {"POST /enqueue", "POST /api/v1/jobs", "WEBSOCKET /api/v1/events/socket"} <= {
        f"{each['method']} {each['path']}" for each in found
    }
    assert {403} == {each["status"] for each in found if each["method"] != "GET"}
