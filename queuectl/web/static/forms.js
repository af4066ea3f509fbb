// Forms: asking before something is destroyed, sending without leaving the page, copying, and lists
// that follow their filter while it is typed.

import { act, csrf, load, main, put, say, show, warn } from "./page.js";

// What the dialog asks about, as it was when it was asked: by the time of the answer the button may
// mean something else, or be gone.
let asking = null;
let typing = 0; // the timer of a filter that is being typed
let filters = 0; // asked for; only the answer to the last one is shown, and none after an action

// Returns what a form would send. Not form.action: that is a button which is called so.
function request(form, button) {
  return { path: form.getAttribute("action"), fields: new URLSearchParams(new FormData(form, button)) };
}

function ask(form, button) {
  const dialog = document.getElementById("ask");
  document.getElementById("ask-title").textContent = button.dataset.ask;
  document.getElementById("ask-yes").textContent = button.dataset.yes;
  asking = request(form, button);
  asking.fields.set("confirmed", "1");
  dialog.showModal();
}

async function send({ path, fields }) {
  clearTimeout(typing);
  filters += 1;
  const token = csrf();
  try {
    const headers = token ? { "X-CSRF-Token": token } : {};
    const answer = await act(() => load(path, { method: "POST", body: fields, headers }));
    if (!answer) return;
    const { found, response } = answer;
    show(found, response.redirected ? response.url : location.href);
    const said = document.getElementById("said");
    if (said) say(said.textContent);
    const wrong = main().querySelector("[aria-invalid]") ?? (found.getElementById("confirm") ? main() : null);
    wrong?.focus();
  } catch {
    warn("The gateway does not answer. Whether it was done is not known.");
  }
}

function submitted(event) {
  const form = event.target;
  const button = event.submitter;
  if (form.hasAttribute("data-filter")) {
    event.preventDefault();
    filter(form);
  } else if (form.hasAttribute("data-morph")) {
    event.preventDefault();
    if (button?.dataset.ask) ask(form, button);
    else send(request(form, button));
  }
}

async function filter(form) {
  const fields = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value && !(name === "order" && value === "newest")) fields.append(name, value);
  const query = fields.toString();
  const path = form.getAttribute("action") + (query ? `?${query}` : "");
  const mine = (filters += 1);
  const answer = await act(() => load(path)).catch(() => {
    if (mine === filters) warn("The gateway does not answer.");
  });
  if (!answer || mine !== filters) return;
  history.replaceState(null, "", path);
  put(answer.found);
  const rows = document.querySelectorAll("[data-list] tbody > tr").length;
  say(rows ? `${rows} jobs shown` : "No job matches");
}

function copied(button) {
  const text = button.dataset.copy;
  const done = () => {
    const before = button.ariaLabel;
    button.ariaLabel = "Copied";
    button.classList.add("copied");
    say("Copied");
    setTimeout(() => ((button.ariaLabel = before), button.classList.remove("copied")), 1500);
  };
  if (navigator.clipboard) {
    navigator.clipboard.writeText(text).then(done, () => {});
    return;
  }
  const area = document.createElement("textarea"); // Where there is no TLS.
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  done();
}

export function reveal() {
  for (const each of document.querySelectorAll("[data-copy][hidden], [data-open][hidden], [data-all][hidden], [data-keys][hidden]")) each.hidden = false;
}

export function startForms() {
  reveal();
  document.addEventListener("queuectl:put", reveal);
  document.addEventListener("submit", submitted);
  document.addEventListener("input", (event) => {
    const form = event.target.form;
    if (!form?.hasAttribute("data-filter")) return;
    clearTimeout(typing);
    typing = setTimeout(() => filter(form), event.target.type === "search" ? 250 : 0);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.copy !== undefined) copied(button);
    if (button.dataset.open) document.getElementById(button.dataset.open).showModal();
    if (button.dataset.close !== undefined) button.closest("dialog").close();
    if (button.id === "ask-yes" && asking) {
      button.closest("dialog").close();
      send(asking);
      asking = null;
    }
  });
  document.addEventListener("keydown", (event) => {
    const sending = event.target.closest?.("form[data-send]");
    if (sending && event.key === "Enter" && (event.ctrlKey || event.metaKey)) sending.requestSubmit();
  });
}
