// Making what is on the page like what the server sent, with as few changes as can be: so focus,
// selection, scrolling and what was typed stay where they are.
//
// Children with an id are the same child wherever they stand. What has data-keep is left alone. What
// the reader did to a control (ticked, typed, opened) is theirs and is not undone.

const THEIRS = new Set(["open", "checked", "data-is", "aria-pressed"]);

// Not form.id: that is a field which is called so.
const idOf = (node) => node.getAttribute?.("id") ?? "";

export function morph(old, next) {
  if (old.isEqualNode(next) || old.hasAttribute("data-keep")) return;
  attributes(old, next);
  children(old, next);
}

function attributes(old, next) {
  const typed = old.localName === "input" && old.type !== "hidden";
  const left = (name) => THEIRS.has(name) || (typed && name === "value");
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !left(name)) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (name === "hidden" || (left(name) && old.hasAttribute(name))) continue; // The script has shown it.
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function children(old, next) {
  const wanted = [...next.childNodes].filter((each) => !blank(each));
  const ids = new Set(wanted.map(idOf));
  for (const each of [...old.children]) if (idOf(each) && !ids.has(idOf(each))) each.remove();
  const byId = new Map([...old.children].filter(idOf).map((each) => [idOf(each), each]));
  let at = solid(old.firstChild);
  for (const want of wanted) {
    const id = idOf(want);
    let have = id ? byId.get(id) : at;
    if (have && !alike(have, want)) have = null;
    if (!have) {
      const before = at ? at.previousSibling : old.lastChild;
      const gap = want.previousSibling;
      if (before && !blank(before) && gap && blank(gap)) old.insertBefore(gap, at);
      old.insertBefore(want, at);
      continue;
    }
    if (have === at) at = solid(at.nextSibling);
    else old.insertBefore(have, at);
    same(have, want);
  }
  while (at) {
    const gone = at;
    at = solid(at.nextSibling);
    gone.remove();
  }
}

// Blanks between elements stay as they are; what is put in brings the one before it.
const blank = (node) => node.nodeType === Node.TEXT_NODE && !node.data.trim();

function solid(node) {
  while (node && blank(node)) node = node.nextSibling;
  return node;
}

function same(have, want) {
  if (have.nodeType === Node.ELEMENT_NODE) morph(have, want);
  else if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && idOf(a) === idOf(b);
}
