/** The list of takes, which the server keeps, and the one that is being made. */

import * as api from "./api.js";
import { $, about, clock, el, iconButton, menu, say } from "./dom.js";
import { quality } from "./form.js";

/** @typedef {import("./api.js").Job} Job */

const STAGES = /** @type {Record<string, string>} */ ({
  load: "loading the model", encode: "listening", solve: "separating", rank: "choosing the best", decode: "making the sounds", write: "saving",
});
const ACTIVE = new Set(["queued", "running"]);
const EMPTY = "no words";

/** @param {any} request */
const prompts = (request) => request.descriptions ?? [request.description || ""];
/** @param {Job} job */
export const heading = (job) => job.title || prompts(job.request).filter(Boolean).join(", ") || EMPTY;

/** Emits "open", "repeat", "done" and "failed" with a job, "lost" and "found" with the server. */
export class Takes extends EventTarget {
  /** @type {Job[]} */ list = [];
  /** @type {Job | null} */ followed = null;
  opened = ""; // its id
  #shown = "";
  #stop = new AbortController();
  #timer = 0;

  constructor() {
    super();
    $("cancel").onclick = () => this.cancel();
    $("clear-takes").onclick = () => this.#clear();
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    addEventListener("focus", () => this.refresh());
  }

  #tell(/** @type {string} */ name, /** @type {any} */ detail = undefined) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  /** Asks again after a while: other windows make takes, too. */
  async refresh() {
    clearTimeout(this.#timer);
    try {
      this.list = await api.jobs();
      this.#tell("found");
      this.#render();
    } catch (error) { this.#tell("lost", error); }
    const busy = this.list.some((job) => ACTIVE.has(job.status));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => document.hidden || this.refresh(), busy ? 1500 : 4000);
  }

  /** Shows a job's progress to its end. @param {Job} job */
  async follow(job) {
    this.#stop.abort();
    const stop = this.#stop = new AbortController();
    this.#progress(job);
    say(`${heading(job)}: ${job.status}`, true);
    for await (const { event, data } of api.events(job.id, stop.signal)) {
      if (stop.signal.aborted) return;
      if (event === "progress") job = { ...job, status: "running", position: null, progress: data };
      else if (data?.status) job = data;
      this.#progress(job);
      if (["done", "failed", "cancelled"].includes(event)) break;
    }
    if (stop.signal.aborted) return;
    this.#progress(null);
    if (!ACTIVE.has(job.status)) {
      say(`${heading(job)}: ${job.status}`, true);
      this.#tell(job.status, job);
    }
    await this.refresh();
  }

  async cancel() {
    if (!this.followed) return;
    $("cancel").disabled = true;
    $("running-stage").textContent = "stops after this step";
    await api.cancel(this.followed.id).catch((error) => this.#tell("lost", error));
  }

  get #useless() { return this.list.filter(({ status }) => status === "cancelled" || status === "failed"); }

  async #clear() {
    const gone = this.#useless;
    await Promise.all(gone.map((job) => api.forget(job.id).catch(() => {})));
    say(`${counted(gone.length, "take")} removed`, true);
    await this.refresh();
    /** @type {any} */ ($("takes").querySelector("button:enabled") ?? $("prompt-0")).focus();
  }

  #progress(/** @type {Job | null} */ job) {
    this.followed = job;
    $("running").hidden = !job;
    document.title = job ? `${Math.round(100 * (job.progress?.fraction ?? 0))} % \u00b7 mlx-sam-audio` : "mlx-sam-audio";
    if (!job) { $("cancel").disabled = false; return; }
    $("running-title").textContent = heading(job);
    const words = state(job);
    if (!$("cancel").disabled) $("running-stage").textContent = words;
    if (job.progress) $("progress").value = job.progress.fraction;
    else $("progress").removeAttribute("value");
    say(words);
  }

  #render() {
    const all = JSON.stringify([this.list, this.opened, Math.floor(Date.now() / 60000)]);
    const busy = $("takes").querySelector("details[open], input"); // not under somebody's hands
    if (all === this.#shown || busy) return;
    this.#shown = all;
    const focused = /** @type {any} */ (document.activeElement)?.closest?.(".take")?.dataset.job;
    $("no-takes").hidden = this.list.length > 0;
    $("clear-takes").hidden = !this.#useless.length;
    $("takes").replaceChildren(...this.list.map((job) => this.#take(job)));
    if (focused) $("takes").querySelector(`[data-job="${focused}"] .take-name`)?.focus();
  }

  #take(/** @type {Job} */ job) {
    const done = job.status === "done" && job.kind === "separate", { request } = job;
    const link = (/** @type {string} */ words, /** @type {string} */ url) => el("a", { href: api.download(url), download: "" }, words);
    const action = (/** @type {string} */ words, /** @type {() => void} */ onclick, className = "") =>
      el("button", { type: "button", className, onclick }, words);
    const name = el("button", {
      type: "button", className: "take-name", disabled: !done, title: heading(job),
      "aria-current": job.id === this.opened ? "true" : null, onclick: () => this.#tell("open", job),
    }, heading(job));
    const spans = (request.descriptions ? request.spans?.flat() : request.spans)?.length;
    const facts = [
      clock(job.seconds ?? 0), request.model, quality(request) ?? (request.steps && counted(request.steps, "step")),
      request.seed && `seed ${request.seed}`, request.box && "box", spans && counted(spans, "span"),
      (request.candidates ?? 1) !== 1 && `best of ${request.candidates}`,
      done && job.finished && job.started && `took ${about(job.finished - job.started)}`, job.input?.name,
    ].filter(Boolean).join(" \u00b7 ");
    const failed = job.status === "failed";
    const row = el("li", { className: `take ${job.status}${job.id === this.opened ? " opened" : ""}`, "data-job": job.id },
      el("div", { className: "take-head" }, name,
        iconButton("repeat", `Repeat: brings back all fields of ${heading(job)}`, () => this.#tell("repeat", job)),
        menu(`More on ${heading(job)}`, [
          ...(done ? [link("All as zip", job.zip), link("Labels for Audacity", job.labels), link("Report", job.report)] : []),
          action("Rename", () => this.#rename(job, row)),
          ACTIVE.has(job.status) ? action("Cancel", () => api.cancel(job.id).then(() => this.refresh())) : null,
          action("Delete", async () => { await api.forget(job.id).catch(() => {}); row.remove(); await this.refresh(); }, "danger"),
        ])),
      el("p", { className: "quiet take-facts", title: facts }, facts),
      job.status === "done" ? null : el("p", { className: failed ? "error" : "quiet" }, failed ? job.error?.message ?? "failed" : state(job)));
    const value = job.progress ? { value: job.progress.fraction } : {};
    if (ACTIVE.has(job.status)) row.append(el("progress", { max: 1, "aria-label": `Progress of ${heading(job)}`, ...value }));
    return row;
  }

  #rename(/** @type {Job} */ job, /** @type {any} */ row) {
    let over = false; // what is removed blurs once more
    const finish = async (/** @type {boolean} */ keep) => {
      if (over) return;
      over = true;
      const title = input.value.trim();
      input.remove();
      this.#shown = "";
      if (keep && title && title !== heading(job)) await api.rename(job.id, title).catch(() => {});
      await this.refresh();
    };
    const input = el("input", { type: "text", value: heading(job), maxLength: 200, "aria-label": "Name of the take",
      onblur: () => finish(true), onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Enter") finish(true);
        if (event.key === "Escape") finish(false);
      } });
    row.querySelector("details").removeAttribute("open");
    row.querySelector(".take-name").replaceWith(input);
    input.select();
    input.focus();
  }
}

const counted = (/** @type {number} */ n, /** @type {string} */ word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** How far a job is, in words. @param {Job} job */
function state(job) {
  if (job.status === "queued") return (job.position ?? 0) > 1 ? `waits, ${job.position} in the queue` : "waits for its turn";
  if (job.status !== "running") return job.status;
  const { progress } = job;
  if (!progress) return job.eta_seconds ? `starts, about ${about(job.eta_seconds)}` : "starts";
  const count = progress.stage === "solve" ? ` ${progress.done} of ${progress.total}` : "";
  const left = progress.seconds_left === null ? "" : `, about ${about(progress.seconds_left)} left`;
  return `${STAGES[progress.stage] ?? progress.stage}${count}${left}`;
}
