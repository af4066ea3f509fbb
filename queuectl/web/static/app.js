// What every page does with a script: the parts by name. All of it is on top of pages that work
// without one. Nothing here makes markup from text: elements are built, text is set as text.

import { startForms } from "./forms.js";
import { startKeys } from "./keys.js";
import { startList } from "./list.js";
import { startLive } from "./live.js";
import { startTimes } from "./times.js";

for (const start of [startTimes, startForms, startKeys, startList, startLive]) start();

// What only some pages have comes with the first one that has it.
const PARTS = { ".out": "./output.js", ".chart": "./charts.js" };

async function parts() {
  for (const [selector, path] of Object.entries(PARTS)) {
    if (document.querySelector(selector)) (await import(path)).start();
  }
}

parts();
document.addEventListener("queuectl:put", parts);
