// Times that go on: "3m ago" is told anew each second, in the words that the server uses, and
// moments are told in the reader's own time zone.

const UNITS = [["d", 864e5], ["h", 36e5], ["m", 6e4]];

function brief(span) {
  for (const [unit, size] of UNITS) if (span >= size) return `${Math.floor(span / size)}${unit}`;
  return `${Math.floor(Math.max(span, 0) / 1000)}s`;
}

export function relative(kind, at, now) {
  if (kind === "in") return at > now ? `in ${brief(at - now)}` : "due";
  return brief(now - at) + (kind === "ago" ? " ago" : "");
}

const two = (value) => String(value).padStart(2, "0");

export function local(at) {
  const d = new Date(at);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

function tick() {
  if (document.hidden) return;
  const now = Date.now();
  for (const each of document.querySelectorAll("time[data-t]")) {
    const text = relative(each.dataset.t, Date.parse(each.dateTime), now);
    if (each.textContent !== text) each.textContent = text;
  }
}

function place() {
  for (const each of document.querySelectorAll("time[data-local]")) {
    const text = local(Date.parse(each.dateTime));
    if (each.textContent !== text) each.textContent = text;
  }
}

export function startTimes() {
  place();
  setInterval(tick, 1000);
  document.addEventListener("queuectl:put", () => (place(), tick()));
}

document.addEventListener("mouseover", (event) => {
  const time = event.target.closest?.("time");
  if (time && !time.title) time.title = local(Date.parse(time.dateTime));
});
