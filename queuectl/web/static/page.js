// Fetching pages and fragments of them, and putting them in the place of what is there.

import { morph } from "./morph.js";

const parser = new DOMParser();
let looks = new AbortController();
let acting = 0;

export const main = () => document.getElementById("main");
export const csrf = () => document.querySelector("input[name=csrf_token]")?.value ?? "";

// Returns the document at a path, or null if it is not to be had (then `lost` is told).
export async function load(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { Accept: "text/html", ...options.headers } });
  const gone = new URL(response.url).pathname.startsWith("/login");
  if (gone || response.status === 401) {
    location.reload(); // The session has ended: the guard shows where to log in.
    return null;
  }
  if (!(response.headers.get("Content-Type") ?? "").startsWith("text/html")) {
    const problem = await response.json().catch(() => null);
    warn(problem?.detail ?? `The gateway answers ${response.status}.`);
    return null;
  }
  const found = parser.parseFromString(await response.text(), "text/html");
  return { found, response };
}

// Loads what nobody asked for by hand. Null, too, once an action is under way: what it changes may no
// longer be there to be shown, and its answer is newer.
export async function look(path) {
  if (acting) return null;
  try {
    return await load(path, { signal: looks.signal });
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  }
}

// Lets go of what was looked for and has not come.
export function stopLooking() {
  looks.abort();
  looks = new AbortController();
}

// Runs an action, with no look before it is over.
export async function act(action) {
  acting += 1;
  stopLooking();
  try {
    return await action();
  } finally {
    acting -= 1;
  }
}

// Whether the reader is in the middle of something that must not change under their hands: a question,
// a form that is being filled in or corrected.
export function isOccupied() {
  return document.querySelector("dialog[open], #confirm, #enqueue, #main [aria-invalid]") !== null;
}

export function fragmentOf(path, name) {
  const url = new URL(path, location.href);
  url.searchParams.set("fragment", name);
  return url;
}

// Puts a page's changing parts in their places.
export function put(found) {
  const next = found.getElementById("main");
  if (!next) return;
  const held = document.activeElement?.id;
  morph(main(), next);
  const nav = found.getElementById("nav");
  if (nav) morph(document.getElementById("nav"), nav);
  if (held && document.activeElement === document.body) document.getElementById(held)?.focus();
  if (found.title) document.title = found.title;
  document.dispatchEvent(new Event("queuectl:put"));
}

// Puts another page in the place of this one, as following a link would.
export function show(found, url) {
  const path = new URL(url, location.href);
  if (path.href !== location.href) history.pushState(null, "", path);
  put(found);
}

export function say(text) {
  const live = document.getElementById("live");
  if (live && live.textContent !== text) live.textContent = text;
}

// Shows for some seconds what no page says.
export function warn(text) {
  document.querySelector(".toast")?.remove();
  const note = document.createElement("div");
  note.className = "note bad toast";
  note.setAttribute("role", "alert");
  note.textContent = text;
  document.body.append(note);
  setTimeout(() => note.remove(), 10000);
}

addEventListener("popstate", () => location.reload());
