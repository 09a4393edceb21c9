/** What keys do, and the table that says so. */

import { $, closeMenus, el, stored } from "./dom.js";

/** @typedef {{keys: string[], words: string, shown?: string, act: (event: KeyboardEvent) => void, anywhere?: boolean}} Key */

/** @param {Key[]} keys */
export function listen(keys) {
  const dialog = $("keys"), on = $("keys-on");
  on.checked = stored("keys") !== "off";
  on.onchange = () => stored("keys", on.checked ? "on" : "off");
  $("keys-button").onclick = () => dialog.showModal();
  dialog.addEventListener("click", (/** @type {MouseEvent} */ event) => event.target === dialog && dialog.close());
  const all = [...keys, { keys: ["?"], words: "This table", act: () => dialog.showModal() }];
  $("keys-table").replaceChildren(...all.map(({ keys, shown, words }) =>
    el("tr", {}, el("th", { scope: "row" }, ...(shown ?? keys.join(" ")).split(" ").map((key) => el("kbd", {}, key))), el("td", {}, words))));

  document.addEventListener("pointerdown", (event) => closeMenus(/** @type {Node} */ (event.target)));
  document.addEventListener("keydown", (event) => {
    if (dialog.open || event.isComposing) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.key === "Escape" && document.querySelector("details.menu[open]")) return closeMenus();
    const name = (event.shiftKey && event.key.length > 1 ? "Shift+" : "") + (event.key === " " ? "Space" : event.key);
    const found = all.find((key) => key.keys.includes(event.ctrlKey || event.metaKey ? `Ctrl+${name}` : name));
    if (!found || event.altKey) return;
    const writes = target.matches("input:not([type=checkbox], [type=radio], [type=range]), textarea, select");
    const acts = target.matches("button, summary, a, [type=checkbox], [type=radio]") && ["Space", "Enter"].includes(name);
    const slides = target.matches("[type=range], [type=radio]") && name.includes("Arrow");
    if (!found.anywhere && (writes || acts || slides || !on.checked)) return;
    if (found.anywhere && name === "Escape" && writes) return target.blur();
    event.preventDefault();
    found.act(event);
  });
}
