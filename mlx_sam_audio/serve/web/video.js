/** The picture of a video, in step with the playhead, and the box on it. */

import * as api from "./api.js";
import { $ } from "./dom.js";

const DRIFT = 0.12; // seconds

export class Picture extends EventTarget {
  /** @type {number[] | null} pixels: left, top, right, bottom */ box = null;
  #input = /** @type {any} */ (null);
  #asked = -1;

  /** @param {import("./player.js").Player} player */
  constructor(player) {
    super();
    this.player = player;
    const movie = $("movie"), canvas = $("box-canvas");
    movie.onerror = () => { if (movie.getAttribute("src")) this.#pictures(); };
    movie.onloadedmetadata = () => { if (!movie.videoWidth) this.#pictures(); }; // it plays the sound only
    $("frame").onload = () => this.#draw();
    player.addEventListener("change", () => this.#sync());
    const tick = () => { if (player.playing) this.#sync(); requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
    this.#inputs.forEach((input) => { input.onchange = () => this.#typed(); });
    $("no-box").onclick = () => this.set(null);
    let from = /** @type {[number, number] | null} */ (null);
    const at = (/** @type {PointerEvent} */ event) => {
      const frame = canvas.getBoundingClientRect(), { width, height } = this.#input.video;
      const scale = (/** @type {number} */ x, /** @type {number} */ most) => Math.round(Math.min(1, Math.max(0, x)) * most);
      const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
      return /** @type {[number, number]} */ ([scale(x, width), scale(y, height)]);
    };
    canvas.onpointerdown = (/** @type {PointerEvent} */ event) => {
      from = at(event);
      canvas.setPointerCapture(event.pointerId);
      event.preventDefault();
    };
    canvas.onpointermove = (/** @type {PointerEvent} */ event) => { if (from) this.set(between(from, at(event))); };
    canvas.onpointerup = (/** @type {PointerEvent} */ event) => {
      if (!from) return;
      const [x, y] = at(event), { width, height } = this.#input.video;
      const dragged = Math.abs(x - from[0]) > 2 && Math.abs(y - from[1]) > 2;
      const [w, h] = [width / 20, height / 20]; // a click makes a box of a tenth
      this.set(dragged ? between(from, [x, y]) : [x - w, y - h, x + w, y + h]);
      from = null;
    };
  }

  get #inputs() { return [0, 1, 2, 3].map((i) => $(`box-${i}`)); }

  /** @param {{video: any, content: string | null, frames: string | null} | null} input */
  show(input) {
    const same = input?.content && input.content === this.#input?.content;
    this.#input = input?.video ? input : null;
    $("video").hidden = !this.#input;
    if (same) return;
    this.#asked = -1;
    this.set(null);
    $("frame").hidden = true;
    $("movie").hidden = false;
    if (!this.#input) { $("movie").removeAttribute("src"); return; }
    const { width, height } = this.#input.video;
    Object.assign($("box-canvas"), { width, height });
    this.#inputs.forEach((field, i) => { field.max = String(i % 2 ? height : width); });
    $("movie").src = api.address(this.#input.content);
    this.#sync();
  }

  /** Where the browser cannot play a film: single pictures from the server. */
  #pictures() {
    $("movie").hidden = true;
    $("frame").hidden = false;
    this.#sync();
  }

  #sync() {
    if (!this.#input) return;
    const movie = $("movie"), { time, playing, waiting } = this.player;
    if (movie.hidden) {
      const second = Math.min(Math.max(0, this.player.seconds - 0.1), playing ? Math.floor(time) : Math.round(time * 10) / 10);
      if (second !== this.#asked) $("frame").src = api.address(`${this.#input.frames}?t=${second}`);
      this.#asked = second;
      return;
    }
    const runs = playing && !waiting;
    if (Math.abs(movie.currentTime - time) > (runs ? DRIFT : 0.02) && !movie.seeking) movie.currentTime = time;
    if (runs && movie.paused && !movie.ended) movie.play().catch(() => {});
    if (!runs && !movie.paused) movie.pause();
  }

  /** Whether the model sees: one that hears only gets no box. @param {boolean | undefined} sees */
  tools(sees) {
    $("box-canvas").hidden = $("box").hidden = !sees;
    $("hears-only").hidden = Boolean(sees);
  }

  /** @param {number[] | null} box */
  set(box) {
    if (box && this.#input) {
      const { width, height } = this.#input.video;
      box = box.map((value, i) => Math.round(Math.min(Math.max(0, value), i % 2 ? height : width)));
    }
    this.box = box;
    this.#inputs.forEach((input, i) => { input.value = box ? String(box[i]) : ""; });
    this.#draw();
    this.dispatchEvent(new Event("change"));
  }

  #typed() {
    const typed = this.#inputs.map((input) => input.value);
    if (typed.every((value) => value !== "")) this.set(typed.map(Number));
  }

  #draw() {
    const canvas = $("box-canvas"), context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.box) return;
    const [left, top, right, bottom] = this.box;
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.clearRect(left, top, right - left, bottom - top);
    context.lineWidth = Math.max(1, canvas.width / 200);
    context.strokeStyle = "#2dd4bf";
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

/** @param {[number, number]} a @param {[number, number]} b */
const between = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
