"""
Requirement: names, commands, variables, errors and output are text, whatever they hold. No page of
the dashboard runs, loads or draws anything that a job brought.
"""

import base64
from typing import Any
from urllib.parse import quote

import httpx
from chromium import opened
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess

from queuectl.protocol import JobSpec

#: Texts that have run scripts in other programs. `X` becomes an attempt to be noticed.
CORPUS = (
    "<script>X</script>",
    "</script><script>X</script>",
    "<img src=x onerror=X>",
    '"><svg onload=X>',
    "' onfocus=X autofocus '",
    "</textarea><script>X</script>",
    "</title><script>X</script>",
    "</style><script>X</script>",
    "--><script>X</script>",
    "javascript:X",
    "{{ 7 * 7 }}{% include 'x' %}",
    "${X}",
    "<a href=javascript:X>here</a>",
    "<iframe srcdoc='<script>X</script>'></iframe>",
    "<math><mi//xlink:href='data:x,<script>X</script>'>",
    "<template><script>X</script></template>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<form action=//evil.example><button>",
    "\u202e\u2066gnp.exe\u200b",
    "\x1b]8;;javascript:X\x07link\x1b]8;;\x07",
    "\x1b[31m<b>red</b>\x1b[0m\x1b[2J\x1b[1;1H",
)
NOTICED = "window.ran=1,alert(1)"
ADDRESSES = ("/jobs?search=", "/jobs?queue=", "/dead?reason=", "/enqueue?command=")
PAGES = ("/", "/jobs", "/schedule", "/dead", "/workers", "/queues", "/settings", "/tokens")


def name_of(text: str) -> str:
    """
    Return as much of a text as an id or a queue's name may hold.
    """
    allowed = [each for each in text if each.isprintable() and each not in " ,/'\"\\"]
    return "x" + "".join(allowed)[:120]


def job_of(number: int, text: str) -> JobSpec:
    """
    Return a job that is called so, says so, is in a queue that is called so, and dies.
    """
    text = text.replace("X", NOTICED)
    coded = base64.b64encode(text.encode()).decode()
    return JobSpec(
        command=f"echo {coded} | base64 -d; : {text.encode('unicode_escape').decode()!r} '{text}'"
        if "'" not in text
        else f"echo {coded} | base64 -d; exit 1 # {text}",
        id=f"{number}{name_of(text)}",
        queue=name_of(text),
        env={f"NAME{number}": text},
        max_retries=0,
    )


def test_nothing_of_a_job_is_markup(
    browser: Any,
    browser_session: httpx.Client,
    gateway: GatewayProcess,
    web_daemon: DaemonProcess,
) -> None:
    """
    Every page is looked at with jobs that are called, say, print and die of each text.
    """
    jobs = [job_of(number, text) for number, text in enumerate(CORPUS)]
    jobs += [JobSpec(command=f"/no/{name_of(text)}", max_retries=0) for text in CORPUS[:6]]
    ids = web_daemon.enqueue(*jobs)
    for each in ids:
        web_daemon.wait_for(each, "completed", "dead")
    with opened(browser, browser_session, gateway.url) as tab:
        for path in PAGES:
            tab.goto(path)
            look(tab, path)
        for job in ids[: len(CORPUS)]:
            tab.goto(f"/jobs/{quote(job, safe='')}")
            tab.locator("#out-state", has_text="complete").wait_for()
            look(tab, job)


def look(tab: Any, where: str) -> None:
    """
    Nothing ran, and there is no element that only a stranger's text would have made.
    """
    assert tab.evaluate("window.ran === undefined"), where
    foreign = "#main :is(script, iframe, img, base, meta, math, template, style, b b, [onerror])"
    assert 0 == tab.locator(foreign).count(), where
    assert 0 == tab.locator("a[href^='javascript' i]").count(), where


def test_texts_come_back_from_forms_and_addresses_as_text(
    browser: Any, browser_session: httpx.Client, gateway: GatewayProcess
) -> None:
    """
    What is in an address, a search or a form that was refused is shown again, and is text there.
    """
    expected = ("status of 422", "status of 404")
    with opened(browser, browser_session, gateway.url, expected) as tab:
        for number, plain in enumerate(CORPUS):
            text = plain.replace("X", NOTICED)
            # Two of the addresses for each text: every one of them sees half of all.
            for path in ADDRESSES[number % 2 :: 2]:
                tab.goto(path + quote(text))
                look(tab, f"{path}{text}")
        for text in (CORPUS[0], CORPUS[3], CORPUS[5]):
            tab.goto("/enqueue")
            tab.get_by_label("Command").fill(text)
            tab.get_by_label("Retries").fill(text)
            tab.get_by_role("button", name="Enqueue").click()
            tab.locator("#e-max_retries").wait_for()
            look(tab, text)
