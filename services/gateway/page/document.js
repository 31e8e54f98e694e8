/** Finding and making what the page consists of. Whatever comes from the mesh becomes text here, and never HTML. */

/**
 * The element with this id. Throws when there is none.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @param {new () => T} [kind] what it has to be
 * @returns {T}
 */
export function find(id, kind) {
  const found = document.getElementById(id);
  if (found === null || (kind !== undefined && !(found instanceof kind))) throw new Error(`the page has no ${id}`);
  return /** @type {T} */ (found);
}

/**
 * A new element. Attributes that are undefined or false are left out, those that are true are set without a value.
 * @template {keyof HTMLElementTagNameMap} N
 * @param {N} name
 * @param {Readonly<Record<string, string | number | boolean | undefined>>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[N]}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * Says `text` in an element, and touches nothing when it says so already.
 * @param {Node} target
 * @param {string} text
 */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * Makes these the children of `parent`, in this order, moving as few as possible and keeping the focus where it is.
 * @param {Element} parent
 * @param {readonly Element[]} children
 */
export function arrange(parent, children) {
  const focused = document.activeElement;
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    const there = parent.children[index];
    if (there !== child) parent.insertBefore(child, there ?? null);
  });
  if (focused instanceof HTMLElement && focused !== document.activeElement && parent.contains(focused)) {
    focused.focus({ preventScroll: true });
  }
}

/**
 * A button that copies `text`.
 * @param {string} label what it shows
 * @param {string} text
 * @param {string} what it copies, for those who do not see
 */
export function copyButton(label, text, what) {
  const button = element("button", { type: "button", class: "copy", title: `Copy ${what} ${text}` }, label);
  button.setAttribute("aria-label", `Copy ${what} ${text}`);
  button.addEventListener("click", () => {
    void copy(text).then((copied) => toast(copied ? `Copied ${what}` : `${what}: ${text}`));
  });
  return button;
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers give the clipboard to pages of this machine and of https only.
    return false;
  }
}

const TOAST_MS = 5_000;
const TOASTS_MAX = 3;

/**
 * Says something for a moment.
 * @param {string} sentence
 * @param {"plain" | "bad"} [tone]
 */
export function toast(sentence, tone = "plain") {
  const toasts = find("toasts");
  const shown = element("p", { class: "toast", "data-tone": tone }, sentence);
  toasts.append(shown);
  while (toasts.children.length > TOASTS_MAX) toasts.firstElementChild?.remove();
  setTimeout(() => shown.remove(), TOAST_MS);
}
