/** Lanes one under the other on one time axis: pictures, playhead, zoom, and the mixer. */

import * as api from "./api.js";
import { $, clock, el, menu } from "./dom.js";
import Regions from "./vendor/regions.esm.js";
import WaveSurfer from "./vendor/wavesurfer.esm.js";

/**
 * @typedef {{id: string, kind: "original" | "isolated" | "rest", name: string, detail: string, url: string, entries: (Node | null)[]}} Lane
 */

const HEIGHT = 72; // of a lane's picture; the CSP's hash of wavesurfer's style depends on it
const SHORTEST = 0.1; // seconds that are shown
const LOUDER = 16; // most that levels are matched by
const HEAT = ["000004", "280b54", "65156e", "9f2a63", "d44842", "f57d15", "fac127", "fcffa4"]
  .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const MARKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];

export class Lanes {
  /** @type {(Lane & {element: any, wave: any, canvas: any, volume: number, level: number, peak: number})[]} */ list = [];
  /** @type {Set<string>} */ solo = new Set();
  /** @type {Set<string>} */ muted = new Set();
  matched = false;
  spectrum = false;
  from = 0;
  to = 0;
  shown = 0; // seconds of what was shown before
  #regions = /** @type {any} */ (null);
  #drag = { alt: false, from: 0, to: 0 }; // of the pointer, in pixels of the window
  #draws = 0;
  #later = 0;
  #top = /** @type {number | undefined} */ (undefined);

  /** @param {import("./player.js").Player} player @param {import("./spans.js").Spans} spans @param {(error: Error) => void} failed */
  constructor(player, spans, failed) {
    this.player = player;
    this.spans = spans;
    this.failed = failed;
    spans.addEventListener("change", (/** @type {any} */ event) => event.detail.live || this.#drawRegions());
    spans.addEventListener("choose", () => this.#drawRegions());
    player.addEventListener("change", () => this.#move());
    new ResizeObserver(() => { clearTimeout(this.#later); this.#later = setTimeout(() => this.#draw(), 150); }).observe($("stage"));
    $("scroll").addEventListener("input", () => this.look(Number($("scroll").value), this.to - this.from));
    $("stage").addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      this.#drag = { alt: event.altKey, from: event.clientX, to: event.clientX };
    }, { capture: true });
    addEventListener("pointermove", (event) => { if (event.buttons) this.#drag.to = event.clientX; }, { capture: true });
    $("stage").addEventListener("wheel", (/** @type {WheelEvent} */ event) => {
      const across = event.shiftKey ? event.deltaY : event.deltaX, length = this.to - this.from;
      const sideways = Math.abs(across) > (event.shiftKey ? 0 : Math.abs(event.deltaY));
      if (event.ctrlKey || event.metaKey) this.zoom(event.deltaY < 0 ? 2 : 0.5, this.#second(event.clientX));
      else if (sideways && length < this.seconds) this.look(this.from + across / 800 * length, length);
      else return;
      event.preventDefault();
    }, { passive: false });
    const scrub = (/** @type {PointerEvent} */ event) => this.player.seek(this.#second(event.clientX));
    for (const handle of [$("ruler"), $("playhead")]) {
      handle.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => { handle.setPointerCapture(event.pointerId); scrub(event); });
      handle.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => handle.hasPointerCapture(event.pointerId) && scrub(event));
    }
    const tick = () => { if (player.playing) this.#move(); requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  get seconds() { return this.player.seconds; }

  /** @param {Lane[]} lanes which the player has loaded */
  show(lanes) {
    const before = new Map(this.list.map((lane) => [lane.id, lane]));
    for (const lane of this.list) lane.wave.destroy();
    const same = this.to > 0 && Math.abs(this.seconds - this.shown) < 0.05;
    const all = this.from === 0 && this.to >= this.shown;
    const stems = lanes.length > 1;
    this.shown = this.seconds;
    this.#top = undefined;
    this.solo = new Set([...this.solo].filter((id) => lanes.some((lane) => lane.id === id)));
    if (stems !== (before.size > 1) || !same) {
      this.solo = new Set([lanes[stems ? 1 : 0].id]);
      this.muted = new Set(stems ? [lanes[0].id] : []); // the others add up to it
    }
    if (!same || all) [this.from, this.to] = [0, this.seconds];
    this.to = Math.min(this.to, this.seconds); // of the same recording, at another rate
    this.list = lanes.map((lane, i) => {
      const volume = before.get(lane.id)?.volume ?? 1;
      return { ...lane, ...this.#lane(lane, i, volume), volume, level: 0, peak: 1 };
    });
    $("lanes").replaceChildren(...this.list.map((lane) => lane.element));
    for (const lane of this.list) this.#waveform(lane);
    $("total").textContent = `/ ${clock(this.seconds)}`;
    $("playhead").setAttribute("aria-valuemax", this.seconds.toFixed(2));
    this.mix();
    this.#draw();
    this.#move();
  }

  #lane(/** @type {Lane} */ lane, /** @type {number} */ i, /** @type {number} */ volume) {
    const tool = (/** @type {string} */ letter, /** @type {string} */ label, /** @type {() => void} */ onclick) =>
      el("button", {
        type: "button", className: `tool ${label.toLowerCase()}`, "aria-pressed": "false", "aria-label": `${label} ${lane.name}`,
        title: `${label} (${letter} on the lane that is heard)`, onclick,
      }, letter);
    const slider = el("input", {
      type: "range", min: "0", max: "1.5", step: "0.01", value: String(volume), title: "Volume", "aria-label": `Volume of ${lane.name}`,
      oninput: () => this.#volume(lane.id, Number(slider.value)),
      ondblclick: () => { slider.value = "1"; this.#volume(lane.id, 1); },
    });
    const name = { type: "button", className: "lane-name", "aria-pressed": "false", title: `Hear this alone (${i + 1})` };
    const canvas = el("canvas", { className: "spectrum", "aria-hidden": "true" });
    const element = el("article", { className: `lane ${lane.kind}`, "data-lane": lane.id, "aria-label": lane.name },
      el("div", { className: "lane-head" },
        el("button", { ...name, onclick: () => this.choose(i) },
          el("kbd", { "aria-hidden": "true" }, String(i + 1)), el("span", {}, lane.name)),
        el("p", { className: "quiet lane-detail", title: lane.detail }, lane.detail),
        el("div", { className: "lane-tools" },
          tool("S", "Solo", () => this.toggleSolo(lane.id)), tool("M", "Mute", () => this.toggleMute(lane.id)),
          slider,
          lane.entries.length ? menu(`More on ${lane.name}`, lane.entries) : null)),
      el("div", { className: "track", onclick: (/** @type {MouseEvent} */ event) => this.player.seek(this.#second(event.clientX)) },
        canvas, el("div", { className: "hertz", "aria-hidden": "true" }), el("div", { className: "wave" })));
    return { element, canvas, wave: null };
  }

  #waveform(/** @type {any} */ lane) {
    lane.wave = WaveSurfer.create({
      container: lane.element.querySelector(".wave"), height: HEIGHT, cursorWidth: 0, interact: false, hideScrollbar: true,
      autoScroll: false, normalize: true, maxPeak: 1, ...this.#colours(lane),
    });
    if (lane !== this.list[0]) return;
    const regions = this.#regions = lane.wave.registerPlugin(Regions.create());
    regions.enableDragSelection({ minLength: 0.02 });
    regions.on("region-initialized", (/** @type {any} */ region) => {
      if (region.id.startsWith("region-")) region.setOptions({ id: this.#drag.alt ? "new minus" : "new plus" });
    });
    regions.on("region-created", (/** @type {any} */ region) => {
      if (!region.id.startsWith("new")) return;
      region.remove(); // it is drawn anew, and not as wide as wavesurfer begins it
      this.spans.add(this.#drag.alt ? "-" : "+", this.#second(this.#drag.from), this.#second(this.#drag.to));
    });
    const moved = (/** @type {any} */ region, /** @type {string | undefined} */ side, live = true) => {
      const id = region.id.split(" ")[0], span = this.spans.list.find((one) => one.id === id);
      if (!span) return;
      const start = side === "end" ? span.start : this.from + region.start;
      const end = side === "start" ? span.end : this.from + region.end;
      this.spans.change(id, { start, end }, live);
    };
    regions.on("region-update", (/** @type {any} */ region, /** @type {any} */ side) => moved(region, side));
    regions.on("region-updated", (/** @type {any} */ region, /** @type {any} */ side) => setTimeout(() => moved(region, side, false)));
    regions.on("region-clicked", (/** @type {any} */ region) => this.spans.choose(region.id.split(" ")[0]));
  }

  #drawRegions() {
    if (!this.list[0]?.wave.getDecodedData()) return;
    this.#regions.clearRegions();
    for (const span of this.spans.list) {
      if (span.end <= this.from || span.start >= this.to) continue;
      const whole = span.start >= this.from && span.end <= this.to;
      const parts = [span.id, span.sign === "+" ? "plus" : "minus", span.predicted ? "predicted" : "", span === this.spans.chosen ? "chosen" : ""];
      const region = this.#regions.addRegion({
        id: parts.filter(Boolean).join(" "), color: "transparent", content: span.sign === "+" ? "+" : "\u2212",
        start: Math.max(0, span.start - this.from), end: Math.min(this.to, span.end) - this.from,
        drag: whole, resizeStart: span.start >= this.from, resizeEnd: span.end <= this.to, minLength: 0.02,
      });
      region.element?.setAttribute("title", this.spans.sounds[span.sound] ?? "");
    }
  }

  // Pictures

  #second(/** @type {number} */ x) {
    const box = /** @type {DOMRect} */ ($("ruler").getBoundingClientRect());
    return Math.min(this.seconds, Math.max(0, this.from + (x - box.left) / box.width * (this.to - this.from)));
  }

  /** Shows a stretch. @param {number} from @param {number} length in seconds */
  look(from, length) {
    length = Math.min(this.seconds, Math.max(SHORTEST, length));
    this.from = Math.min(Math.max(0, from), this.seconds - length);
    this.to = this.from + length;
    this.#move();
    clearTimeout(this.#later);
    this.#later = setTimeout(() => this.#draw(), 60);
  }

  /** @param {number} times @param {number} [around] a second that stays where it is */
  zoom(times, around = this.player.time) {
    const [before, after] = [this.to - this.from, (this.to - this.from) / times];
    const share = around < this.from || around > this.to ? 0.5 : (around - this.from) / before;
    this.look(around - share * Math.min(this.seconds, Math.max(SHORTEST, after)), after);
  }

  fit() { this.look(0, this.seconds); }

  /** Fetches what is shown, and draws it; a later call wins. */
  async #draw() {
    if (!this.list.length || !this.seconds) return;
    const draw = ++this.#draws;
    const { from, to, list } = this;
    const width = Math.max(200, Math.round($("ruler").clientWidth));
    this.#drawRuler(width);
    Object.assign($("scroll"), { hidden: to - from >= this.seconds, max: String(this.seconds - (to - from)), value: String(from) });
    try {
      const found = await Promise.all(list.map((lane) => api.peaks(lane.url, Math.min(2000, width), from, to)));
      if (draw !== this.#draws) return;
      const most = Math.max(1e-4, found[0].peak);
      await Promise.all(list.map(async (lane, i) => {
        lane.peak = found[i].peak;
        if (from === 0 && to === this.seconds) lane.level = loudness(found[i]);
        lane.wave.setOptions({ maxPeak: most });
        await lane.wave.load("", [Float32Array.from(found[i].max), Float32Array.from(found[i].min)], to - from).catch(() => {});
      }));
      if (draw !== this.#draws) return;
      this.#drawRegions();
      if (this.matched) this.mix();
      if (this.spectrum) await this.#drawSpectra(draw, Math.min(1200, width));
    } catch (error) {
      if (draw === this.#draws) this.failed(/** @type {Error} */ (error));
    }
  }

  #drawRuler(/** @type {number} */ width) {
    const length = this.to - this.from;
    const step = MARKS.find((mark) => mark >= length / width * 72) ?? 7200;
    const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
    const marks = [];
    for (let i = Math.ceil(this.from / step - 1e-6); i * step <= this.to; i++) {
      const mark = el("span", {}, clock(i * step, digits));
      mark.style.left = `${(i * step - this.from) / length * 100}%`;
      marks.push(mark);
    }
    $("ruler").replaceChildren(...marks);
  }

  async #drawSpectra(/** @type {number} */ draw, /** @type {number} */ columns) {
    const { from, to, list } = this;
    if (this.#top === undefined) this.#top = (await api.spectrogram(list[0].url, 16)).top; // of the whole mixture, for all
    await Promise.all(list.map(async (lane) => {
      const found = await api.spectrogram(lane.url, columns, from, to, this.#top);
      if (draw === this.#draws) paint(lane.canvas, lane.element.querySelector(".hertz"), found);
    }));
  }

  /** @param {boolean} spectrum instead of waveforms */
  picture(spectrum) {
    this.spectrum = spectrum;
    $("stage").classList.toggle("spectra", spectrum);
    $("show-wave").setAttribute("aria-pressed", String(!spectrum));
    $("show-spectrum").setAttribute("aria-pressed", String(spectrum));
    void this.#draw();
  }

  #colours(/** @type {any} */ lane) {
    const colour = getComputedStyle(lane.element.querySelector(".wave")).color;
    return { waveColor: colour, progressColor: colour };
  }
  recolour() { for (const lane of this.list) lane.wave.setOptions(this.#colours(lane)); }

  #move() {
    const { time } = this.player, length = this.to - this.from;
    const away = (time > this.to || time < this.from) && time < this.seconds;
    if (this.player.playing && away && length < this.seconds) this.look(time - 0.02 * length, length);
    const at = (/** @type {number} */ second) => (second - this.from) / (this.to - this.from || 1) * 100;
    $("time").textContent = clock(time);
    const head = $("playhead"), loop = this.player.loop, range = $("loop-range");
    head.style.left = `${Math.min(100, Math.max(0, at(time)))}%`;
    head.classList.toggle("outside", time < this.from - 1e-6 || time > this.to + 1e-6);
    const words = `${clock(time, 0)} of ${clock(this.seconds, 0)}`;
    if (!this.player.playing || head.getAttribute("aria-valuetext") !== words) {
      head.setAttribute("aria-valuenow", time.toFixed(2));
      head.setAttribute("aria-valuetext", words);
    }
    range.hidden = !loop || loop[0] >= this.to || loop[1] <= this.from;
    if (!loop || range.hidden) return;
    range.style.left = `${Math.max(0, at(loop[0]))}%`;
    range.style.right = `${Math.max(0, 100 - at(loop[1]))}%`;
  }

  // Mixer

  /** The lane that keys act on: the only one that is heard alone, or the first of them. */
  get current() { return this.list.find((lane) => this.solo.has(lane.id)) ?? this.list[0]; }

  /** A/B: hears one lane alone. @param {number} i */
  choose(i) { if (this.list[i]) { this.solo = new Set([this.list[i].id]); this.mix(); } }
  /** Hears all that are not muted. */
  all() { this.solo.clear(); this.mix(); }
  toggleSolo(/** @type {string} */ id) { if (!this.solo.delete(id)) this.solo.add(id); this.mix(); }
  toggleMute(/** @type {string} */ id) { if (!this.muted.delete(id)) this.muted.add(id); this.mix(); }
  #volume(/** @type {string} */ id, /** @type {number} */ volume) {
    for (const lane of this.list) if (lane.id === id) lane.volume = volume;
    this.mix();
  }
  match() { this.matched = !this.matched; this.mix(); }

  /** Solo wins over mute, as in a desk; matched levels are the original's, as far as no lane clips. */
  mix() {
    for (const lane of this.list) {
      const heard = this.solo.size ? this.solo.has(lane.id) : !this.muted.has(lane.id);
      const even = this.matched && lane.level ? Math.min(LOUDER, this.list[0].level / lane.level, Math.max(1, 1 / lane.peak)) : 1;
      this.player.setLevel(lane.id, heard ? lane.volume * even : 0);
      lane.element.classList.toggle("heard", heard);
      const press = (/** @type {string} */ part, /** @type {boolean} */ on) =>
        lane.element.querySelector(part).setAttribute("aria-pressed", String(on));
      press(".lane-name", this.solo.size === 1 && this.solo.has(lane.id));
      press(".solo", this.solo.has(lane.id));
      press(".mute", this.muted.has(lane.id));
    }
    $("match").setAttribute("aria-pressed", String(this.matched));
    $("mix").setAttribute("aria-pressed", String(!this.solo.size));
    $("mix").hidden = $("match").hidden = this.list.length < 2;
  }
}

/** The root mean square of a sound, nearly, from its extremes. @param {{min: number[], max: number[]}} peaks */
function loudness({ min, max }) {
  return Math.sqrt(min.reduce((sum, low, i) => sum + ((max[i] - low) / 2) ** 2, 0) / Math.max(1, min.length));
}

/** Low frequencies take more of the height, as in hearing.
 * @param {any} canvas @param {any} labels @param {{columns: number, bins: number, nyquist: number, values: Uint8Array}} found */
function paint(canvas, labels, { columns, bins, nyquist, values }) {
  const rows = 2 * HEIGHT;
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const palette = Array.from({ length: 256 }, (_, v) => {
    const place = v / 255 * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(place));
    return HEAT[i].map((low, k) => low + (HEAT[i + 1][k] - low) * (place - i));
  });
  for (let row = 0; row < rows; row++) {
    const bin = (/** @type {number} */ y) => Math.min(bins - 1, Math.floor((y / rows) ** 2 * bins));
    const [low, high] = [bin(rows - row - 1), bin(rows - row)];
    for (let column = 0; column < columns; column++) {
      let value = 0;
      for (let k = low; k <= high; k++) value = Math.max(value, values[column * bins + k]);
      image.data.set(palette[value], 4 * (row * columns + column));
      image.data[4 * (row * columns + column) + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  labels.replaceChildren(...[1000, 4000, 12000].filter((hertz) => hertz < 0.8 * nyquist).map((hertz) => {
    const label = el("span", {}, `${hertz / 1000}k`);
    label.style.bottom = `${Math.sqrt(hertz / nyquist) * 100}%`;
    return label;
  }));
}
