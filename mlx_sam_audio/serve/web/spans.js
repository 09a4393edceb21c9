/** Where the sound is and where it is not: the list, and its table, which is the way without a mouse. */

import { $, el, iconButton } from "./dom.js";

/** @typedef {{id: string, sign: "+" | "-", start: number, end: number, predicted: boolean, sound: number}} Span */

const SHORTEST = 0.05; // a little more than a latent frame

/** Emits "change" ({live: true} while a region is being dragged), "choose" and "play". */
export class Spans extends EventTarget {
  /** @type {Span[]} */ list = [];
  /** @type {Span | null} */ chosen = null;
  seconds = 0;
  /** @type {string[]} the prompts, of which each has spans of its own */ sounds = [""];
  #count = 0;
  /** @type {Map<string, any>} */ #rows = new Map();

  /** Milliseconds within the recording, an end after its start; it tells what that changes.
   * @param {number} start @param {number} end */
  #fit(start, end) {
    const last = Math.floor(this.seconds * 1000) / 1000;
    const round = (/** @type {number} */ x) => Math.round(Math.min(Math.max(0, x), last) * 1000) / 1000;
    const outside = Math.min(start, end) < -0.001 || Math.max(start, end) > this.seconds + 0.001;
    const short = Math.abs(end - start) < SHORTEST - 1e-6;
    tell(outside ? "Moved inside the recording." : short ? `Made ${SHORTEST} s long, the shortest.` : start > end ? "Start and end swapped." : "");
    [start, end] = [round(Math.min(start, end)), round(Math.max(start, end))];
    return end - start < SHORTEST ? { start: round(Math.min(start, last - SHORTEST)), end: round(start + SHORTEST) } : { start, end };
  }

  /** @param {"+" | "-"} sign @param {number} start @param {number} end @param {{predicted?: boolean, sound?: number}} [more] */
  add(sign, start, end, { predicted = false, sound = this.chosen?.sound ?? 0 } = {}) {
    if (!this.seconds) return;
    const span = { id: `s${++this.#count}`, sign, ...this.#fit(start, end), predicted, sound };
    this.list.push(span);
    this.choose(span.id);
    this.#changed();
  }

  /** @param {string} id @param {Partial<Span>} values */
  change(id, values, live = false) {
    const span = this.list.find((one) => one.id === id);
    if (!span) return;
    Object.assign(span, values, this.#fit(values.start ?? span.start, values.end ?? span.end), { predicted: false });
    this.#changed(live);
  }

  /** @param {string} id */
  remove(id) {
    const at = this.list.findIndex((one) => one.id === id);
    if (at < 0) return;
    const inside = this.#rows.get(id)?.contains(document.activeElement);
    tell("");
    this.list.splice(at, 1);
    this.choose(this.list[Math.min(at, this.list.length - 1)]?.id);
    this.#changed();
    if (inside) (this.#rows.get(this.chosen?.id ?? "")?.querySelector("button") ?? $("add-span")).focus();
  }

  /** @param {string} [id] */
  choose(id) {
    this.chosen = this.list.find((one) => one.id === id) ?? null;
    for (const [key, row] of this.#rows) row.classList.toggle("chosen", key === id);
    this.dispatchEvent(new Event("choose"));
  }

  /** What a request or a job holds: a list, or with several prompts a list of lists. @param {any[]} values */
  set(values, predicted = false, several = false) {
    tell("");
    const lists = several ? values : [values];
    this.list = lists.flatMap((one, sound) => one.map((/** @type {any} */ [sign, start, end]) =>
      ({ id: `s${++this.#count}`, sign, ...this.#fit(start, end), predicted, sound })));
    this.choose();
    this.#changed();
  }

  /** @returns {any[]} as a request holds them */
  get values() {
    const of = (/** @type {number} */ sound) => this.list.filter((one) => one.sound === sound).map(({ sign, start, end }) => [sign, start, end]);
    return this.sounds.length > 1 ? this.sounds.map((_, i) => of(i)) : of(0);
  }

  /** @param {string[]} sounds */
  setSounds(sounds) {
    this.sounds = sounds;
    for (const span of this.list) span.sound = Math.min(span.sound, sounds.length - 1);
    this.#changed();
  }

  #changed(live = false) {
    this.#table();
    this.dispatchEvent(new CustomEvent("change", { detail: { live } }));
  }

  #table() {
    const several = this.sounds.length > 1;
    $("spans-table").hidden = !this.list.length;
    $("spans-table").classList.toggle("several", several);
    for (const [id, row] of this.#rows) {
      if (this.list.some((one) => one.id === id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    this.list.forEach((span, i) => {
      const row = this.#rows.get(span.id) ?? this.#row(span.id);
      const [sign, start, end, sound] = ["sign", "start", "end", "sound"].map((name) => row.querySelector(`[name=${name}]`));
      row.classList.toggle("predicted", span.predicted);
      row.classList.toggle("chosen", span === this.chosen);
      row.setAttribute("aria-label", `Span ${i + 1}${span.predicted ? ", found by the model" : ""}`);
      sign.replaceChildren(...(span.sign === "+" ? ["+ ", el("span", {}, "it is here")] : ["\u2212 ", el("span", {}, "it is not")]));
      sign.setAttribute("aria-label", span.sign === "+" ? "Plus: it is here" : "Minus: it is not");
      sign.className = span.sign === "+" ? "sign plus" : "sign minus";
      for (const [input, value] of [[start, span.start], [end, span.end]]) {
        input.max = String(this.seconds);
        if (Number(input.value) !== value || !input.value) input.value = String(value);
      }
      sound.replaceChildren(...this.sounds.map((name, k) => el("option", { value: String(k) }, name || `Sound ${k + 1}`)));
      sound.value = String(span.sound);
    });
  }

  #row(/** @type {string} */ id) {
    const now = () => /** @type {Span} */ (this.list.find((one) => one.id === id));
    const changed = (/** @type {any} */ event, /** @type {string} */ name) => {
      if (event.target.value) return this.change(id, { [name]: Number(event.target.value) });
      tell("A number is needed: it is as before.");
      this.#table();
    };
    const number = (/** @type {"start" | "end"} */ name, /** @type {string} */ label) =>
      el("input", { type: "number", name, min: "0", step: "0.01", "aria-label": label, onchange: (/** @type {any} */ event) => changed(event, name) });
    const turn = () => this.change(id, { sign: now().sign === "+" ? "-" : "+" });
    const row = el("tr", { onfocusin: () => this.chosen?.id !== id && this.choose(id), onpointerdown: () => this.choose(id) },
      el("td", {}, el("button", { type: "button", name: "sign", title: "The other sign", onclick: turn })),
      el("td", { className: "for-sound" },
        el("select", { name: "sound", "aria-label": "Sound", onchange: (/** @type {any} */ event) => changed(event, "sound") })),
      el("td", {}, number("start", "Start, seconds")),
      el("td", {}, number("end", "End, seconds")),
      el("td", { className: "actions" },
        iconButton("play", "Play this span", () => { this.choose(id); this.dispatchEvent(new Event("play")); }),
        iconButton("close", "Remove this span", () => this.remove(id))));
    this.#rows.set(id, row);
    $("spans").append(row);
    return row;
  }

  /** Audacity's labels: a start, an end and a text between tabs; a text that begins with "-" is one where it is not.
   * @param {string} text @returns {number} how many there were */
  read(text) {
    const lines = [...text.matchAll(/^([\d.]+)\t([\d.]+)(?:\t(.*))?$/gm)];
    const words = new Set();
    for (const [, start, end, name = ""] of lines) {
      this.add(name.startsWith("-") ? "-" : "+", Number(start), Number(end));
      words.add($("spans-told").textContent);
    }
    tell([...words].join(" ").trim());
    return lines.length;
  }
}

/** Below the table, aloud, too. @param {string} words */
const tell = (words) => { $("spans-told").textContent = words; };
