// Keyboard shortcuts. Single keys do nothing while something is typed, and can be switched off for
// who speaks to their computer (WCAG 2.1.4).

import { clearSelection } from "./list.js";

const SWITCH = "queuectl.keys";
let going = 0;

const on = () => localStorage.getItem(SWITCH) !== "off";
const typing = (target) => target.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");

function links() {
  return [...document.querySelectorAll("#main .table tbody .id")];
}

function move(step) {
  const all = links();
  if (!all.length) return;
  const row = document.activeElement?.closest("tr");
  const at = row ? all.findIndex((each) => row.contains(each)) : -1;
  const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function go(key) {
  document.querySelector(`#nav a[data-key="${CSS.escape(key)}"]`)?.click();
}

const KEYS = {
  "/": () => (document.getElementById("search") ?? document.getElementById("out-find"))?.focus(),
  "?": () => document.getElementById("help").showModal(),
  n: () => (location.href = "/enqueue"),
  j: () => move(1),
  k: () => move(-1),
  x: () => document.activeElement?.closest("tr")?.querySelector("input[name=id]")?.click(),
  f: () => document.getElementById("out-follow")?.click(),
  w: () => document.getElementById("out-wrap")?.click(),
  z: () => document.getElementById("out-full")?.click(),
};

function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (document.querySelector("dialog[open]")) return; // It closes the dialog, and that is all.
    const full = document.querySelector(".out.full");
    if (full) document.getElementById("out-full").click();
    else if (typing(event.target)) event.target.blur();
    else clearSelection();
    return;
  }
  if (typing(event.target) || document.querySelector("dialog[open]") || !on()) return;
  if (going && Date.now() - going < 1500) {
    going = 0;
    event.preventDefault();
    go(event.key);
  } else if (event.key === "g") {
    going = Date.now();
  } else if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

export function startKeys() {
  const box = document.getElementById("keys-on");
  if (!box) return;
  box.checked = on();
  box.addEventListener("change", () => localStorage.setItem(SWITCH, box.checked ? "on" : "off"));
  document.addEventListener("keydown", pressed);
}
