/** Puts the parts together: what is on the desk, and how it gets there. */

import * as api from "./api.js";
import { $, clock, closeMenus, el, say, size, stored } from "./dom.js";
import { Form } from "./form.js";
import { listen } from "./keys.js";
import { Lanes } from "./lanes.js";
import { Player } from "./player.js";
import { Spans } from "./spans.js";
import { heading, Takes } from "./takes.js";
import { Picture } from "./video.js";

/**
 * @typedef {{ref: any, name: string, facts: string, url: string, seconds: number, rate: number, video: any,
 *   content: string | null, frames: string | null}} Input what the next separation is of
 */

const player = new Player(), spans = new Spans(), form = new Form(), takes = new Takes(), picture = new Picture(player);
const lanes = new Lanes(player, spans, (error) => form.fail(error));
export { lanes, player }; // for tests
/** @type {Input | null} */ let input = null;

// Inputs

/** Facts with dots between them, without those that are empty. @param {string[]} facts */
const line = (...facts) => facts.filter(Boolean).join(" \u00b7 ");
/** @param {{seconds: number, sample_rate: number, channels: number}} one */
const basics = ({ seconds, sample_rate, channels }) =>
  line(clock(seconds), `${sample_rate / 1000} kHz`, ["mono", "stereo"][channels - 1] ?? `${channels} channels`);

/** @param {import("./api.js").File} file @returns {Input} */
const ofFile = (file) => ({
  ref: { file: file.id }, name: file.name, url: `/v1/files/${file.id}`, seconds: file.seconds, rate: file.sample_rate, video: file.video,
  content: `/v1/files/${file.id}/content`, frames: `/v1/files/${file.id}/frame`,
  facts: line(basics(file), file.video ? `${file.video.width} \u00d7 ${file.video.height}` : "", size(file.bytes)),
});
/** @param {import("./api.js").Job} job @param {string} stem @returns {Input} */
const ofStem = (job, stem) => ({
  ref: { job: job.id, stem }, name: `${stemName(job, stem)} of \u201c${heading(job)}\u201d`, facts: line(basics(job), `from ${job.input.name}`),
  url: job.stems[stem].url, seconds: job.seconds, rate: job.sample_rate, video: null, content: null, frames: null,
});
/** What a job was made of; where that is gone, its mixture. @param {import("./api.js").Job} job @returns {Promise<Input>} */
async function inputOf(job) {
  try {
    if (job.input.file) return ofFile(await api.file(job.input.file));
    return ofStem(await api.job(job.input.job), job.input.stem ?? "residual");
  } catch (error) {
    if (job.stems?.mixture) return { ...ofStem(job, "mixture"), name: job.input.name };
    throw error;
  }
}
const same = (/** @type {any} */ a, /** @type {any} */ b) => JSON.stringify(a) === JSON.stringify(b);
/** Whether it is of the input that is shown. @param {import("./api.js").Job} job */
const isMine = ({ input: { file, job, stem } }) => same(input?.ref, file ? { file } : { job, stem });

/** @param {import("./api.js").Job} job @param {string} stem */
function stemName(job, stem) {
  if (stem === "mixture") return "Original";
  if (stem === "residual") return job.stems["target-0"] ? "The rest" : "Without";
  return stem === "target" ? "Isolated" : job.stems[stem].description || `Sound ${Number(stem.split("-")[1]) + 1}`;
}

/** @param {Input} next */
function setInput(next) {
  input = next;
  spans.seconds = next.seconds;
  $("file-name").textContent = next.name;
  $("file-name").title = next.name;
  $("file-facts").textContent = next.facts;
  $("drop").classList.add("filled");
  $("choose").textContent = "Change";
  $("example").hidden = true;
  $("help").open = false;
  form.clearErrors();
  picture.show(next);
}

let choice = new AbortController();
/** What is chosen last wins: an upload that is still on its way is dropped. @returns {AbortSignal} */
function choose() {
  choice.abort();
  choice = new AbortController();
  $("upload").hidden = true;
  return choice.signal;
}

/** An input that nothing was separated of yet: one lane. @param {Input} next */
function showInput(next) {
  if (!same(input?.ref, next.ref)) { spans.set([]); form.forget(); }
  setInput(next);
  takes.opened = "";
  player.load([{ id: "mixture", url: next.url }], next.rate, next.seconds);
  $("lanes-card").hidden = false;
  lanes.show([{ id: "mixture", kind: "original", name: "Original", detail: next.name, url: next.url, entries: [] }]);
  notes([]);
  remember(next.ref.file ? `file=${next.ref.file}` : `stem=${next.ref.job}/${next.ref.stem}`);
  void takes.refresh();
}

const remember = (/** @type {string} */ place) => history.replaceState(null, "", `#${place}`);

/** @param {any[]} sentences */
function notes(sentences) {
  $("notes").hidden = !sentences.length;
  $("notes").replaceChildren(...sentences.map((sentence) => el("li", {}, sentence)));
}

// Takes

/** Shows the lanes of a take. What is in the form stays there as long as it is of the same input.
 * @param {import("./api.js").Job} job */
async function open(job) {
  const next = await inputOf(job);
  const other = !same(input?.ref, next.ref);
  setInput(next);
  if (other) fill(job);
  takes.opened = job.id;
  const targets = Object.keys(job.stems).filter((name) => name.startsWith("target"));
  const names = ["mixture", ...targets.sort((a, b) => a.localeCompare(b, "en", { numeric: true })), "residual"];
  const detail = (/** @type {string} */ stem) =>
    ({ mixture: job.input.name, target: job.stems[stem].description || heading(job), residual: "everything else" })[stem] ?? "isolated";
  const entries = (/** @type {string} */ stem) => {
    const link = (/** @type {string} */ words, /** @type {string} */ kind) =>
      el("a", { href: api.download(`${job.stems[stem].url}.${kind}`), download: "", onclick: () => closeMenus() }, words);
    return [
      stem === "mixture" ? null : el("button", { type: "button", onclick: () => { closeMenus(); chain(job, stem); } }, "Use as the next input"),
      link("Download wav", "wav"), link("Download flac", "flac"), next.video ? link("Download the video with it", "mp4") : null];
  };
  player.load(names.map((id) => ({ id, url: job.stems[id].url })), job.sample_rate, job.seconds);
  $("lanes-card").hidden = false;
  lanes.show(names.map((id) => ({
    id, url: job.stems[id].url, name: stemName(job, id), detail: detail(id), entries: entries(id),
    kind: id === "mixture" ? "original" : id === "residual" ? "rest" : "isolated",
  })));
  const lists = job.request.descriptions ? job.absent : [job.absent];
  const range = (/** @type {[number, number]} */ [start, end]) => `${clock(start)} to ${clock(end)}`;
  const sound = (/** @type {number} */ i) => job.request.descriptions?.[i] ?? (job.request.description || "the sound");
  const absent = lists.map((ranges, i) => ranges.length && `${sound(i)} seems to be absent: ${ranges.map(range).join(", ")}`);
  notes([...absent.filter(Boolean), ...(job.notes ?? [])]);
  remember(`take=${job.id}`);
  void takes.refresh();
}

/** All fields, as the take has them. @param {import("./api.js").Job} job */
function fill(job) {
  if (job.kind === "separate") form.load(job.request);
  else form.setPrompts(job.request.descriptions ?? [job.request.description]); // it has no other fields of its own
  spansOf(job);
  picture.set(job.request.box ?? null);
}

/** @param {import("./api.js").Job} job */
const spansOf = (job) => spans.set(job.spans ?? [], job.predicted, "descriptions" in job.request);

/** Brings back all that a take was made with. @param {import("./api.js").Job} job */
async function repeat(job) {
  choose();
  const next = await inputOf(job);
  if (!same(input?.ref, next.ref)) showInput(next);
  fill(job);
  $("prompt-0").focus();
}

/** "Now remove the piano from what is left." @param {import("./api.js").Job} job @param {string} stem */
function chain(job, stem) {
  choose();
  showInput(ofStem(job, stem));
  form.setPrompts([""]);
  $("prompt-0").focus();
}

async function start(kind = "separate") {
  form.clearErrors();
  if (!input) return form.fail({ message: "Choose a sound or a video first.", param: "input" });
  $("separate").disabled = true;
  try {
    const { model, description, descriptions, ...more } = form.request(spans.values, picture.box);
    const request = { kind, input: input.ref, model, description, descriptions, ...(kind === "spans" ? {} : more) };
    void takes.follow(await api.start(request));
    void takes.refresh();
  } catch (error) { form.fail(error); } finally { $("separate").disabled = false; }
}

/** Waits for something that the server does; what goes wrong is said in the form. @param {() => Promise<any>} act */
const attempt = (act) => act().catch((error) => form.fail(error));
takes.addEventListener("open", (/** @type {any} */ { detail }) => attempt(() => { choose(); return open(detail); }));
takes.addEventListener("repeat", (/** @type {any} */ { detail }) => attempt(() => repeat(detail)));
takes.addEventListener("failed", (/** @type {any} */ { detail }) => form.fail(detail.error ?? { message: "This take failed." }));
takes.addEventListener("done", (/** @type {any} */ { detail }) => attempt(async () => {
  if (detail.predicted && isMine(detail)) spansOf(detail);
  if (detail.kind === "separate" && (isMine(detail) || !input)) await open(detail);
}));
takes.addEventListener("lost", (/** @type {any} */ { detail }) => {
  $("connection").textContent = detail instanceof api.Refused ? detail.message : "The server does not answer.";
});
takes.addEventListener("found", () => { $("connection").textContent = ""; });

// Files

/** @param {globalThis.File | undefined} file */
async function take(file) {
  if (!file) return;
  if (input && /\.txt$/i.test(file.name)) return labels(file);
  form.clearErrors();
  const signal = choose();
  const tell = (/** @type {number} */ fraction) => {
    if (signal.aborted) return;
    if (fraction < 1) $("uploaded").value = fraction;
    else $("uploaded").removeAttribute("value");
    const words = `${fraction < 1 ? "sending" : "reading"} ${file.name}\u2026`;
    if ($("upload-words").textContent !== words) say($("upload-words").textContent = words);
  };
  tell(0);
  $("upload").hidden = false;
  try {
    const found = await api.upload(file, tell, signal);
    if (signal.aborted) return;
    choose();
    showInput(ofFile(found));
    $("prompt-0").focus();
  } catch (error) {
    if (signal.aborted) return;
    choose();
    form.fail(Object.assign(/** @type {any} */ (error), { param: "file" }));
  }
}

/** @param {globalThis.File | undefined} file */
async function labels(file) {
  const message = "No labels were found: lines of a start, an end and a text between tabs.";
  if (file && !spans.read(await file.text())) form.fail({ message, param: "spans" });
  $("labels-file").value = "";
}

$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  void take($("file").files[0]);
  $("file").value = ""; // so that the same one can be chosen again
};
$("cancel-upload").onclick = () => { choose(); say("Upload cancelled", true); $("choose").focus(); };
$("example").onclick = () => attempt(async () => {
  const signal = choose(), file = await api.example();
  if (signal.aborted) return;
  showInput(ofFile(file));
  form.setPrompts([file.description ?? ""]);
});
$("import-labels").onclick = () => $("labels-file").click();
$("labels-file").onchange = () => labels($("labels-file").files[0]);
let inside = 0;
const files = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => { if (files(event)) { inside++; $("drop-hint").hidden = false; } });
addEventListener("dragleave", (event) => { if (files(event) && --inside <= 0) $("drop-hint").hidden = true; });
addEventListener("dragover", (event) => files(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!files(event)) return;
  event.preventDefault();
  inside = 0;
  $("drop-hint").hidden = true;
  void take(event.dataTransfer?.files[0]);
});

// Buttons and keys

const loop = (/** @type {boolean} */ on) => {
  const chosen = spans.chosen;
  player.loop = on ? (chosen ? [chosen.start, chosen.end] : [0, player.seconds]) : null;
  $("loop").setAttribute("aria-pressed", String(on));
};
const playPause = () => (player.playing ? player.pause() : void player.play());
const looping = () => $("loop").getAttribute("aria-pressed") === "true";
/** One end of the chosen span goes to the playhead, or a new span begins there. @param {"start" | "end"} side */
const mark = (side) => {
  const { chosen } = spans, { time } = player;
  if (chosen) spans.change(chosen.id, { [side]: time });
  else if (side === "start") spans.add("+", time, Math.min(time + 1, player.seconds));
  else spans.add("+", Math.max(0, time - 1), time);
};
const sign = (/** @type {"+" | "-"} */ one) => spans.chosen && spans.change(spans.chosen.id, { sign: one });

$("form").onsubmit = (/** @type {Event} */ event) => { event.preventDefault(); void start(); };
$("find-spans").onclick = () => start("spans");
$("play").onclick = playPause;
$("to-start").onclick = () => player.seek(0);
$("loop").onclick = () => loop(!looping());
$("match").onclick = () => lanes.match();
$("mix").onclick = () => lanes.all();
$("show-wave").onclick = () => lanes.picture(false);
$("show-spectrum").onclick = () => lanes.picture(true);
$("zoom-in").onclick = () => lanes.zoom(2);
$("zoom-out").onclick = () => lanes.zoom(0.5);
$("zoom-fit").onclick = () => lanes.fit();
$("add-span").onclick = () => spans.add("+", player.time, Math.min(player.time + 1, player.seconds));
spans.addEventListener("choose", () => looping() && loop(true));
spans.addEventListener("change", () => looping() && loop(true));
spans.addEventListener("play", () => { loop(true); player.seek(spans.chosen?.start ?? 0); if (!player.playing) void player.play(); });
form.addEventListener("prompts", () => spans.setSounds(form.prompts));
form.addEventListener("model", () => picture.tools(form.model?.vision));
player.addEventListener("change", () => {
  $("play").querySelector("use").setAttribute("href", player.playing ? "#i-pause" : "#i-play");
  $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  $("loop").setAttribute("aria-pressed", String(player.loop !== null));
});
player.addEventListener("error", (/** @type {any} */ { detail }) => form.fail(detail));

const shown = () => !$("lanes-card").hidden;
const step = (/** @type {string} */ key, /** @type {number} */ seconds) => player.seek(player.time + (key === "ArrowLeft" ? -seconds : seconds));
listen([
  { keys: ["Space"], words: "Play, pause", act: playPause },
  { keys: [..."123456789"], shown: "1 2 3 \u2026", words: "Hear one lane alone", act: ({ key }) => lanes.choose(Number(key) - 1) },
  { keys: ["0"], words: "Hear all that are not muted", act: () => shown() && lanes.all() },
  { keys: ["s", "S"], shown: "S", words: "Solo of the lane that is heard", act: () => shown() && lanes.toggleSolo(lanes.current.id) },
  { keys: ["m", "M"], shown: "M", words: "Mute it", act: () => shown() && lanes.toggleMute(lanes.current.id) },
  { keys: ["g", "G"], shown: "G", words: "All lanes equally loud", act: () => shown() && lanes.match() },
  { keys: ["ArrowLeft", "ArrowRight"], shown: "\u2190 \u2192", words: "A second back, on", act: ({ key }) => step(key, 1) },
  { keys: ["Shift+ArrowLeft", "Shift+ArrowRight"], shown: "Shift+\u2190 Shift+\u2192", words: "Five seconds", act: ({ key }) => step(key, 5) },
  { keys: ["Home", "End"], words: "To the start, to the end", act: ({ key }) => player.seek(key === "Home" ? 0 : player.seconds) },
  { keys: ["l", "L"], shown: "L", words: "Loop over the chosen span, or all", act: () => shown() && loop(!looping()) },
  { keys: ["["], words: "The span starts at the playhead", act: () => mark("start") },
  { keys: ["]"], words: "The span ends at the playhead", act: () => mark("end") },
  { keys: ["+", "-"], words: "The sound is there, is not there", act: ({ key }) => sign(/** @type {any} */ (key)) },
  { keys: ["Delete", "Backspace"], shown: "Delete", words: "Remove the span", act: () => spans.chosen && spans.remove(spans.chosen.id) },
  { keys: ["z"], shown: "Z", words: "Zoom in", act: () => lanes.zoom(2) },
  { keys: ["Z"], shown: "Shift+Z", words: "Zoom out", act: () => lanes.zoom(0.5) },
  { keys: ["f", "F"], shown: "F", words: "Show all", act: () => lanes.fit() },
  { keys: ["v", "V"], shown: "V", words: "Waveforms, spectrograms", act: () => lanes.picture(!lanes.spectrum) },
  { keys: ["Enter"], words: "Separate", act: () => void start() },
  { keys: ["Ctrl+Enter"], words: "Separate, from any field", act: () => void start(), anywhere: true },
  { keys: ["Escape"], shown: "Esc", words: "Leave a field; cancel", act: () => void takes.cancel(), anywhere: true },
]);

const THEMES = ["auto", "light", "dark"];
/** @param {string} theme */
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme-name").textContent = theme[0].toUpperCase() + theme.slice(1);
  $("theme-button").setAttribute("aria-label", `Theme: ${theme}`);
  lanes.recolour();
}
const theme = () => document.documentElement.dataset.theme ?? "auto";
$("theme-button").onclick = () => setTheme(stored("theme", THEMES[(THEMES.indexOf(theme()) + 1) % 3]) ?? "auto");
setTheme(theme());

// First words

/** Who has no real model yet is told how to get one. @param {import("./api.js").Model[]} models */
function help(models) {
  if (!models.every((model) => model.bundled)) return;
  $("help").hidden = false;
  $("help").replaceChildren(
    el("summary", {}, "Only the small demo model is here"),
    el("p", {}, "It knows seventeen synthetic sounds in clips of a few seconds, and is no good for recordings.",
      " For those, get a model, either way, and restart:"),
    el("code", {}, 'mlx-sam-audio mix.wav -d "a dog barking" -m mlx-community/sam-audio-small-fp16'),
    el("code", {}, "python -m convert --hf-path small"));
}

/** Shows what the address names. @returns {Promise<import("./api.js").Job | null>} the take, if it is one */
async function resume() {
  const place = new URLSearchParams(location.hash.slice(1));
  const [take, file, stem] = ["take", "file", "stem"].map((name) => place.get(name));
  const job = take ? await api.job(take) : null;
  if (job?.stems.mixture) await open(job);
  else if (job) showInput(await inputOf(job));
  else if (file) showInput(ofFile(await api.file(file)));
  else if (stem) showInput(ofStem(await api.job(stem.split("/")[0]), stem.split("/")[1]));
  return job;
}

await attempt(async () => {
  const found = await api.models();
  form.setModels(found.data, found.default);
  help(found.data);
});
const named = await resume().catch(() => history.replaceState(null, "", location.pathname)); // it has expired
await takes.refresh();
const running = takes.list.find((job) => job.status === "running") ?? takes.list.find((job) => job.status === "queued");
if (running && !input) await inputOf(running).then(showInput).catch(() => {});
// the fields as they were, nearly: those of what runs, or of the take that is shown, or of the input's last one
const last = running && isMine(running) ? running : named ?? takes.list.find((job) => isMine(job) && job.kind === "separate");
if (last) fill(last);
if (running) void takes.follow(running);
document.body.dataset.ready = "true";
