// A job's output, live: bytes come from an offset on over a WebSocket, which is opened again from
// where it broke off. Following, wrapping, finding.

import { Screen } from "./ansi.js";
import { reveal } from "./forms.js";

const LINES = 10000; // on the page; all of it is in the download
const HITS = 2000;
const WRAP = "queuectl.wrap";

function decode(text) {
  return new TextDecoder().decode(Uint8Array.from(atob(text), (each) => each.charCodeAt(0)));
}

class Viewer {
  constructor(section) {
    this.section = section;
    this.term = section.querySelector("#term");
    this.screen = new Screen(this.term, LINES);
    this.offset = Number(section.dataset.offset);
    this.follow = true;
    this.pending = [];
    this.delay = 250;
    this.first = true;
    this.ended = false;
    this.hit = -1;
    this.buttons();
    this.open();
  }

  part(name) {
    return this.section.querySelector(`#out-${name}`);
  }

  tell(text) {
    const place = this.part("state");
    if (place.textContent !== text) place.textContent = text;
  }

  // --- the stream ---

  open() {
    clearTimeout(this.again);
    if (!this.section.isConnected) return;
    this.tell("");
    const { job, attempt } = this.section.dataset;
    const path = `/api/v1/jobs/${encodeURIComponent(job)}/output/socket?attempt=${attempt}&offset=${this.offset}`;
    const url = new URL(path, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url);
    this.socket.onopen = () => {
      this.delay = 250;
      if (!this.ended) this.tell("live");
    };
    this.socket.onmessage = (event) => this.take(JSON.parse(event.data));
    this.socket.onclose = () => {
      if (this.ended || !this.section.isConnected) return;
      this.tell("connecting again");
      this.again = setTimeout(() => this.open(), this.delay);
      this.delay = Math.min(this.delay * 2, 10000);
    };
  }

  take({ event, data }) {
    if (!this.section.isConnected) return this.socket.close(); // Another page is in its place.
    if (event === "output") this.output(data);
    else if (event === "missed") {
      this.pending.push({ note: `… ${data.missed_bytes} bytes were skipped: they are in the download` });
      this.offset = data.offset + data.missed_bytes;
    } else if (event === "end" && (data.reason === "finished" || data.reason === "attempt_over")) {
      this.ended = true;
      this.tell("complete");
    } else if (event === "end" && data.reason !== "stopping") this.tell(data.message ?? data.reason);
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  output(data) {
    if (data.dropped_bytes) this.pending.push({ note: `… ${data.dropped_bytes} bytes were dropped: over the output limit` });
    this.pending.push({ text: data.text ?? decode(data.base64) });
    this.offset = data.next_offset;
  }

  draw() {
    this.frame = 0;
    if (this.first) {
      const cut = Number(this.section.dataset.offset) > 0;
      this.screen.clear();
      if (cut) this.offerStart();
      this.first = false;
    }
    for (const each of this.pending.splice(0)) {
      if (each.note) this.screen.note(each.note);
      else this.screen.write(each.text);
    }
    if (this.follow) this.bottom();
    if (this.part("find").value) this.find();
  }

  offerStart() {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small quiet";
    button.textContent = "Show it from its start";
    button.onclick = () => this.restart();
    this.screen.note("… ").append(button);
  }

  restart() {
    this.section.dataset.offset = this.offset = 0;
    this.first = true;
    this.ended = false;
    this.pending = [];
    this.socket.onclose = null;
    this.socket.close();
    this.open();
  }

  bottom() {
    this.term.scrollTop = this.term.scrollHeight;
  }

  // --- the controls ---

  buttons() {
    for (const name of ["find", "follow", "wrap", "full"]) this.part(name).hidden = false;
    this.press("wrap", localStorage.getItem(WRAP) === "on");
    this.part("follow").onclick = () => {
      this.press("follow", (this.follow = !this.follow));
      if (this.follow) this.bottom();
    };
    this.part("wrap").onclick = () => {
      const on = !this.term.classList.contains("wrap");
      this.press("wrap", on);
      localStorage.setItem(WRAP, on ? "on" : "off");
    };
    this.part("full").onclick = () => {
      const on = this.section.classList.toggle("full");
      this.press("full", on);
      if (this.follow) this.bottom();
    };
    this.part("find").oninput = () => this.find(true);
    this.part("find").onkeydown = (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.jump(event.shiftKey ? -1 : 1);
    };
    this.term.onscroll = () => {
      const end = this.term.scrollHeight - this.term.scrollTop - this.term.clientHeight < 24;
      if (end !== this.follow) this.press("follow", (this.follow = end));
    };
    this.bottom();
  }

  press(name, on) {
    this.part(name).ariaPressed = String(on);
    if (name === "wrap") this.term.classList.toggle("wrap", on);
  }

  // Marks the lines that hold the text, and the text in them where the browser can.
  find(anew) {
    const text = this.part("find").value.toLowerCase();
    this.hits = [];
    const ranges = [];
    for (const line of this.term.children) {
      const found = text && this.hits.length < HITS && line.textContent.toLowerCase().includes(text);
      line.classList.toggle("hit", Boolean(found));
      line.classList.remove("now");
      if (!found) continue;
      this.hits.push(line);
      const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const content = node.data.toLowerCase();
        for (let at = content.indexOf(text); at >= 0; at = content.indexOf(text, at + text.length)) {
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, Math.min(at + text.length, node.length));
          ranges.push(range);
        }
      }
    }
    if (globalThis.Highlight) CSS.highlights.set("found", new Highlight(...ranges));
    const count = this.hits.length;
    this.part("hits").textContent = text ? (count ? `${count} ${count === 1 ? "line" : "lines"}` : "nothing found") : "";
    if (anew) {
      this.hit = -1;
      if (count) this.jump(1);
    }
  }

  jump(step) {
    if (!this.hits?.length) return;
    this.hits[this.hit]?.classList.remove("now");
    this.hit = (this.hit + step + this.hits.length) % this.hits.length;
    this.press("follow", (this.follow = false));
    this.hits[this.hit].classList.add("now");
    this.hits[this.hit].scrollIntoView({ block: "center" });
    this.part("hits").textContent = `${this.hit + 1} of ${this.hits.length} lines`;
  }
}

let viewer = null;

export function start() {
  const section = document.querySelector(".out");
  if (!section || viewer?.section === section) return;
  viewer?.socket?.close();
  viewer = new Viewer(section);
  reveal();
}
