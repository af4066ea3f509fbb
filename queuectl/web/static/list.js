// The list of jobs: rows appended while one scrolls, rows brought up to date where one looks, and
// many of them selected.
//
// Rows are in the order of their numbers, newest first, and a page of them is all jobs between its
// first and its last. So a part of the list can be fetched again and put in its place: rows in that
// range that the answer lacks are gone.

import { morph } from "./morph.js";
import { fragmentOf, isOccupied, look } from "./page.js";

const PAGE = 50; // rows that the server shows at first
const APPENDED = 200; // rows fetched at once after them

const rows = () => [...document.querySelectorAll("[data-list] tbody > tr")];
const number = (row) => Number(row.dataset.n);
// Rows are appended one part after the other. A whole page that was asked for before the last part is
// of a shorter list than the reader's.
let loading = null; // the part on its way
export let appends = 0; // parts asked for
let anchor = null;

async function fetchRows(url) {
  const answer = await look(url);
  if (!answer?.response.ok) return null;
  const table = answer.found.querySelector("table");
  const before = table.dataset.before ? Number(table.dataset.before) : null;
  return { fresh: [...table.querySelectorAll("tr")], before };
}

function moreUrl(before) {
  const url = new URL(location.href);
  url.searchParams.set("before", before);
  return url;
}

function setMore(before) {
  const more = document.getElementById("more");
  if (before === null) more?.remove();
  else if (more) more.href = moreUrl(before);
}

async function append(more) {
  const url = fragmentOf(more.href, "rows");
  url.searchParams.set("size", APPENDED);
  const found = await fetchRows(url);
  if (!found) return;
  // A part of the table of its own: the browser looks at parts, not at each row of thousands.
  const part = document.createElement("tbody");
  part.className = "part";
  part.setAttribute("role", "rowgroup");
  part.append(...found.fresh.filter((row) => !document.getElementById(row.id)));
  document.querySelector("[data-list]").append(part);
  setMore(found.before);
  count();
  requestAnimationFrame(check);
}

function check() {
  const more = document.getElementById("more");
  if (loading || !more || more.getBoundingClientRect().top >= innerHeight * 2) return;
  appends += 1;
  loading = append(more).finally(() => (loading = null));
}

const firstSeen = (all) => all.findIndex((row) => row.getBoundingClientRect().bottom > 0);

// Whether a list is short, or one is at its start and has selected nothing, so that it may become
// short again. True of a page without a list.
export function isAtStart() {
  const all = rows();
  return all.length <= PAGE || (firstSeen(all) <= 0 && !boxes().some((box) => box.checked));
}

// How many rows the whole page is to have: as many as the server shows at first, or in a window so tall
// that it would fetch more at once, as many as the server gives at once.
export function rowsAtStart() {
  const last = rows()[PAGE - 1];
  return last && last.getBoundingClientRect().bottom < innerHeight * 2 ? APPENDED : PAGE;
}

// Brings the rows that are seen up to date. False at the list's start, where the whole page is.
export async function refreshRows() {
  while (loading) await loading;
  if (isAtStart()) return false;
  if (document.querySelector("[data-list]").dataset.list !== "newest") return true; // It has no part to ask for.
  const all = rows();
  const top = firstSeen(all);
  let high = top > 0 ? number(all[top]) : Infinity;
  let found = await fetchFrom(high);
  if (high === Infinity && found?.before > number(all[0]) + 1) {
    // So much is new that it would not join on: it comes once nothing is selected.
    high = number(all[0]);
    found = await fetchFrom(high);
  }
  if (found && !isOccupied()) fold(found, high);
  return true;
}

const fetchFrom = (high) => fetchRows(fragmentOf(high === Infinity ? location.href : moreUrl(high + 1), "rows"));

// Puts fetched rows in the place of those between `high` and the last one fetched.
function fold(found, high) {
  const low = found.before === null ? -1 : found.before;
  const there = rows();
  const present = new Map(there.map((row) => [row.id, row]));
  const wanted = new Set(found.fresh.map((row) => row.id));
  let at = null;
  for (const row of there) {
    const n = number(row);
    if (n <= high && n >= low && !wanted.has(row.id)) row.remove();
    else if (n > high) at = row;
  }
  for (const row of found.fresh) {
    const have = present.get(row.id);
    if (have?.isConnected) {
      morph(have, row);
      at = have;
    } else {
      if (at) at.after(row);
      else document.getElementById("rows").prepend(row);
      at = row;
    }
  }
  count();
}

// --- selecting ---

const boxes = () => [...document.querySelectorAll("[data-list] input[name=id]")];

function count() {
  const bulk = document.getElementById("bulk");
  if (!bulk) return;
  const picked = boxes().filter((box) => box.checked).length;
  bulk.hidden = picked === 0;
  const words = `${picked} selected`;
  const label = document.getElementById("picked");
  if (label.textContent !== words) label.textContent = words;
  const all = document.querySelector("[data-all]");
  if (all) {
    all.checked = picked > 0 && picked === boxes().length;
    all.indeterminate = picked > 0 && !all.checked;
  }
}

export function clearSelection() {
  const picked = boxes().filter((box) => box.checked);
  for (const box of picked) box.checked = false;
  count();
  return picked.length > 0;
}

function range(box) {
  const all = boxes();
  const [from, to] = [all.indexOf(anchor), all.indexOf(box)].sort((a, b) => a - b);
  if (from >= 0) for (const each of all.slice(from, to + 1)) each.checked = box.checked;
}

export function startList() {
  count();
  document.addEventListener("queuectl:put", () => (count(), check()));
  document.addEventListener("click", (event) => {
    const box = event.target;
    if (box.name !== "id" || box.type !== "checkbox") return;
    if (event.shiftKey && anchor) range(box);
    anchor = box;
    count();
  });
  document.addEventListener("change", (event) => {
    if (event.target.dataset.all !== undefined) for (const box of boxes()) box.checked = event.target.checked;
    count();
  });
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => ((waiting = false), check()));
  }, { passive: true });
  check();
}
