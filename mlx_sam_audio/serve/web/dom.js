/** Small helpers for elements and words. */

/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/**
 * An element with properties, attributes (names with a dash, `role`, `for`) and children.
 * @param {string} tag @param {Record<string, any>} [given] @param {...(Node | string | null)} children
 * @returns {any}
 */
export function el(tag, given = {}, ...children) {
  const made = /** @type {any} */ (document.createElement(tag));
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-")) made[name] = value;
    else if (value !== null) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** @param {string} name of a symbol in index.html */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button that shows an icon only. @param {string} name @param {string} label @param {() => void} onclick */
export const iconButton = (name, label, onclick) =>
  el("button", { type: "button", className: "ghost", title: label, "aria-label": label, onclick }, icon(name));

/** A menu behind a "..." button. @param {string} label @param {(Node | null)[]} entries */
export function menu(label, entries) {
  const summary = el("summary", { title: label, "aria-label": label, className: "ghost" }, icon("more"));
  return el("details", { className: "menu" }, summary, el("div", {}, ...entries));
}

/** One menu is open at a time; a click elsewhere closes it, and Escape, which gives back the focus. */
export function closeMenus(/** @type {Node | null} */ except = null) {
  for (const open of document.querySelectorAll("details.menu[open]")) {
    if (except && open.contains(except)) continue;
    if (open.contains(document.activeElement)) open.querySelector("summary")?.focus();
    open.removeAttribute("open");
  }
}

/** Seconds as m:ss.t @param {number} seconds @param {number} [digits] */
export function clock(seconds, digits = 1) {
  const ticks = Math.round(Math.max(0, seconds) * 10 ** digits);
  const whole = Math.floor(ticks / 10 ** digits);
  const part = digits ? "." + String(ticks % 10 ** digits).padStart(digits, "0") : "";
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0") + part;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** About how long. @param {number} seconds */
export const about = (seconds) =>
  seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;

/** @param {number} bytes */
export const size = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;

let said = 0, waiting = 0;
/** For screen readers, at most every five seconds; the last words win. @param {string} text */
export function say(text, now = false) {
  clearTimeout(waiting);
  const speak = () => { said = Date.now(); $("live").textContent = text; };
  if (now || Date.now() - said > 5000) speak();
  else waiting = setTimeout(speak, 5000 - (Date.now() - said));
}

/** @param {string} name @param {string | null} [value] stores it, if given */
export function stored(name, value = null) {
  try {
    if (value !== null) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch { return value; } // a browser that stores nothing
}
