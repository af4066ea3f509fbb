// Keeping the page true: the gateway tells when to look, and then the page is asked for anew and put
// in place. At most once a second, less often if the answers take long, and only while the page is
// seen. Without being told (an old proxy, too many streams) it looks every few seconds.

import { appends, isAtStart, refreshRows, rowsAtStart } from "./list.js";
import { fragmentOf, isOccupied, look, put, say, stopLooking } from "./page.js";

const LOOKS = "/looks";
const GAP = 1000; // from one look to the next
const IDLE = 15000; // after so long without being told one looks all the same
const POLL = 5000;

let source = null;
let began = 0; // the last look
let timer = 0;
let busy = false;
let again = false;
let took = 0;

function state(word, text) {
  const link = document.getElementById("link");
  if (!link || link.dataset.is === word) return;
  link.dataset.is = word;
  link.textContent = text;
}

function schedule(wait) {
  if (document.hidden || (timer && wait >= GAP)) return;
  clearTimeout(timer);
  const soonest = began + Math.max(GAP, took * 5) - Date.now();
  timer = setTimeout(turn, Math.max(wait, soonest, 0));
}

async function turn() {
  timer = 0;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  began = Date.now();
  try {
    await refresh();
    if (source?.readyState === EventSource.OPEN) state("live", "Live");
    else state("polling", "Every 5 s");
  } catch {
    state("lost", "Not connected");
    say("The connection to the gateway is lost.");
  }
  took = Date.now() - began;
  busy = false;
  const next = again ? GAP : source?.readyState === EventSource.OPEN ? IDLE : POLL;
  again = false;
  schedule(next);
}

export async function refresh() {
  if (isOccupied()) return;
  if (document.getElementById("problem")) {
    if (document.querySelector("[data-away]")) {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) location.reload();
    }
    return;
  }
  for (;;) {
    if (await refreshRows()) return;
    const asked = appends;
    const url = fragmentOf(location.href, "main");
    if (document.querySelector("[data-list]")) url.searchParams.set("size", rowsAtStart());
    const answer = await look(url);
    if (!answer) return;
    // What is gone or no longer permitted is shown as that; with no daemon the page stays as it was.
    if (answer.response.status >= 500) throw new Error("not served");
    if (isOccupied()) return;
    // The answer has only the start of a long list, and the reader may have moved on from it.
    if (asked === appends && isAtStart()) return keepSaid(answer.found);
  }
}

// What was said about the last action stays until the next page.
function keepSaid(found) {
  const said = document.getElementById("said");
  const head = found.querySelector("#main > .head");
  if (said && head && !found.getElementById("said")) head.after(said.cloneNode(true));
  const created = document.getElementById("created");
  if (created && head) head.after(created.cloneNode(true));
  put(found);
}

function listen() {
  if (source || document.hidden) return;
  source = new EventSource(LOOKS);
  source.onopen = () => (state("live", "Live"), schedule(0));
  source.onerror = () => {
    if (source?.readyState !== EventSource.CLOSED) return;
    hush(); // It was refused: perhaps the session has ended, which a look shows.
    schedule(0);
  };
  source.addEventListener("look", () => schedule(0));
}

function hush() {
  source?.close();
  source = null;
}

export function startLive() {
  if (!document.getElementById("link")) return;
  listen();
  schedule(POLL);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      hush();
      clearTimeout(timer);
      timer = 0;
    } else {
      listen();
      schedule(0);
    }
  });
  setInterval(() => (source ? null : listen()), 30000);
  addEventListener("pagehide", hush);
  // A form that leads away, such as the one that logs out: nothing is to be asked for behind it.
  addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    clearTimeout(timer);
    timer = 0;
    hush();
    stopLooking();
  });
}
