// Output of a terminal as lines of text with colours: SGR (16, 256 and true colours), carriage
// return, backspace, erasing a line. Other sequences are left out. Text is only ever set as text.

const SEQUENCE = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])/y;
const PLAIN = /[^\x00-\x08\x0a-\x1f\x7f]+/y;
const LINE_MAX = 20000; // characters of a line; a longer one is broken
const STEPS = [0, 95, 135, 175, 215, 255];
const FLAGS = { 1: "b", 2: "d", 3: "i", 4: "u", 7: "inverse", 8: "h", 9: "s" };

function palette(index) {
  if (index < 16) return `var(--ansi-${index})`;
  if (index > 231) return rgb(8 + (index - 232) * 10, 8 + (index - 232) * 10, 8 + (index - 232) * 10);
  const at = index - 16;
  return rgb(STEPS[Math.floor(at / 36)], STEPS[Math.floor(at / 6) % 6], STEPS[at % 6]);
}

const rgb = (...parts) => `rgb(${parts.map((part) => Math.min(Number(part) || 0, 255)).join(" ")})`;

export class Screen {
  constructor(element, lines) {
    this.element = element;
    this.linesMax = lines;
    this.dropped = 0;
    this.rest = ""; // The begin of a sequence that is not whole yet.
    this.style = {};
    this.fresh = false; // A carriage return came: what follows draws the line anew.
    this.line = null;
    this.length = 0;
  }

  clear() {
    this.element.replaceChildren();
    Object.assign(this, { rest: "", style: {}, fresh: false, line: null, length: 0, dropped: 0 });
  }

  note(text) {
    const line = document.createElement("span");
    line.className = "l meta";
    line.textContent = text;
    this.line = null;
    this.element.append(line);
    return line;
  }

  write(text) {
    text = this.rest + text;
    this.rest = "";
    let at = 0;
    while (at < text.length) {
      PLAIN.lastIndex = at;
      const plain = PLAIN.exec(text);
      if (plain) {
        this.put(plain[0]);
        at = PLAIN.lastIndex;
        continue;
      }
      const code = text[at];
      if (code === "\x1b") {
        SEQUENCE.lastIndex = at;
        const found = SEQUENCE.exec(text);
        if (!found && text.length - at < 256) {
          this.rest = text.slice(at);
          break;
        }
        if (found) this.obey(found[1], found[2]);
        at = found ? SEQUENCE.lastIndex : at + 1;
        continue;
      }
      if (code === "\n") this.end();
      else if (code === "\r") this.fresh = text[at + 1] !== "\n";
      else if (code === "\b") this.back();
      at += 1;
    }
    this.bound();
  }

  put(text) {
    if (this.fresh && this.line) {
      this.line.replaceChildren();
      this.length = 0;
    }
    this.fresh = false;
    while (text) {
      if (!this.line) {
        this.line = document.createElement("span");
        this.line.className = "l";
        this.element.append(this.line);
        this.length = 0;
      }
      const room = LINE_MAX - this.length;
      this.line.append(this.styled(text.slice(0, room)));
      this.length += Math.min(text.length, room);
      text = text.slice(room);
      if (text) this.line = null;
    }
  }

  styled(text) {
    const { fg, bg, inverse, ...flags } = this.style;
    const names = Object.keys(flags);
    if (fg === undefined && bg === undefined && !inverse && !names.length) return text;
    const span = document.createElement("span");
    if (names.length) span.className = names.map((name) => `a-${name}`).join(" ");
    const [front, back] = inverse ? [bg ?? "#0d1014", fg ?? "#d9dce1"] : [fg, bg];
    if (front) span.style.color = front;
    if (back) span.style.backgroundColor = back;
    span.textContent = text;
    return span;
  }

  end() {
    if (!this.line) this.put("\u200b");
    this.line = null;
    this.fresh = false;
  }

  back() {
    const node = this.line?.lastChild;
    if (!node) return;
    node.textContent = node.textContent.slice(0, -1);
    this.length -= 1;
    if (!node.textContent) node.remove();
  }

  obey(given, final) {
    if (final === "K") {
      if (given !== "" && given !== "0") this.fresh = true;
      else if (this.fresh && this.line) this.line.replaceChildren();
    }
    if (final !== "m") return;
    const codes = (given || "0").split(/[;:]/).map(Number);
    for (let at = 0; at < codes.length; at += 1) {
      const code = codes[at];
      const style = this.style;
      if (!code) this.style = {};
      else if (FLAGS[code]) style[FLAGS[code]] = true;
      else if (code === 22) delete style.b, delete style.d;
      else if (code > 22 && code < 30) delete style[FLAGS[code - 20]];
      else if (code >= 30 && code <= 37) style.fg = palette(code - 30);
      else if (code >= 40 && code <= 47) style.bg = palette(code - 40);
      else if (code >= 90 && code <= 97) style.fg = palette(code - 82);
      else if (code >= 100 && code <= 107) style.bg = palette(code - 92);
      else if (code === 39) delete style.fg;
      else if (code === 49) delete style.bg;
      else if (code === 38 || code === 48) {
        const name = code === 38 ? "fg" : "bg";
        if (codes[at + 1] === 5) style[name] = palette(codes[at + 2] & 255), (at += 2);
        else if (codes[at + 1] === 2) style[name] = rgb(...codes.slice(at + 2, at + 5)), (at += 4);
      }
    }
  }

  bound() {
    const told = this.dropped ? 1 : 0; // The line that says so.
    const over = this.element.childElementCount - told - this.linesMax;
    if (over <= 0) return;
    for (let left = over + told; left > 0; left -= 1) this.element.firstElementChild.remove();
    this.dropped += over;
    const line = document.createElement("span");
    line.className = "l meta";
    line.textContent = `… ${this.dropped} earlier lines are in the download`;
    this.element.prepend(line);
  }
}
