// The numbers beside the pointer: read from the charts' own table, so they are the same.

function figures(index) {
  const table = document.querySelector("#figures table");
  if (!table) return null;
  const all = table.tBodies[0].rows; // The newest first.
  const row = all[all.length - 1 - index];
  return row && [...row.cells].map((cell) => cell.textContent);
}

const COLUMNS = { bars: [1, 2, 3], lines: [4, 5, 6, 7] };
const WORDS = ["", "Completed", "Retried", "Dead", "Wait p50", "Wait p95", "Run p50", "Run p95"];

function point(event) {
  const chart = event.target.closest?.(".chart");
  for (const each of document.querySelectorAll(".tip")) if (each.parentElement !== chart) each.remove();
  if (!chart) return;
  const count = document.querySelector("#figures tbody")?.rows.length ?? 0;
  const box = chart.querySelector("svg").getBoundingClientRect();
  const index = Math.floor(((event.clientX - box.left) / box.width) * count);
  const found = index >= 0 && index < count ? figures(index) : null;
  let tip = chart.querySelector(".tip");
  if (!found) {
    tip?.remove();
    return;
  }
  if (!tip) {
    tip = document.createElement("div");
    tip.className = "tip";
    tip.ariaHidden = "true";
    chart.append(tip);
  }
  const lines = COLUMNS[chart.dataset.chart].map((at) => `${WORDS[at]}  ${found[at]}`);
  tip.textContent = [found[0], ...lines].join("\n");
  const x = event.clientX - chart.getBoundingClientRect().left;
  const right = x > chart.clientWidth / 2;
  tip.style.left = right ? "" : `${x + 14}px`;
  tip.style.right = right ? `${chart.clientWidth - x + 14}px` : "";
  tip.style.top = "28px";
}

let started = false;

export function start() {
  if (started) return;
  started = true;
  document.addEventListener("pointermove", point, { passive: true });
}
