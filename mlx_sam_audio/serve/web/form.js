/** Prompts and settings: what a request holds, and where its errors are shown. */

import { $, el, iconButton } from "./dom.js";

const STEPS = /** @type {Record<string, number>} */ ({ fast: 8, balanced: 16, best: 32 });
/** @param {any} request @returns {string | undefined} */
export const quality = ({ steps }) => Object.keys(STEPS).find((name) => STEPS[name] === steps);
const MOST = 8; // prompts

/** Emits "prompts" when they change, and "model". */
export class Form extends EventTarget {
  /** @type {any} settings of a repeated take that have no field here */ others = {};
  /** @type {import("./api.js").Model[]} */ models = [];
  #last = 0; // the prompt that was typed last

  constructor() {
    super();
    $("add-prompt").onclick = () => { this.#addPrompt(); this.#inputs.at(-1).focus(); };
    $("dice").onclick = () => { $("seed").value = String(Math.floor(Math.random() * 1e6)); };
    $("model").onchange = () => this.#chosen();
    for (const radio of document.getElementsByName("quality")) radio.onchange = () => { delete this.others.steps; delete this.others.times; };
    $("form").addEventListener("input", (/** @type {any} */ event) => this.clearError(event.target.closest("[data-param]")));
    this.#addPrompt();
  }

  get #inputs() { return /** @type {any[]} */ ([...$("prompts").querySelectorAll("input")]); }
  get prompts() { return this.#inputs.map((input) => input.value.trim()); }
  get model() { return this.models.find((one) => one.id === $("model").value); }

  #addPrompt(value = "") {
    const input = el("input", { type: "text", placeholder: "a dog barking", maxLength: 1000, spellcheck: true, value,
      onfocus: () => { this.#last = this.#inputs.indexOf(input); }, oninput: () => this.#count() });
    const remove = () => { row.remove(); this.#count(); this.#inputs[0].focus(); };
    const row = el("div", { className: "prompt" }, input, iconButton("close", "Remove this sound", remove));
    $("prompts").append(row);
    this.#count();
  }

  #count() {
    const inputs = this.#inputs;
    inputs.forEach((input, i) => {
      input.id = `prompt-${i}`;
      if (inputs.length > 1) input.setAttribute("aria-label", `Sound ${i + 1}`);
      else input.removeAttribute("aria-label");
    });
    $("prompts").classList.toggle("several", inputs.length > 1);
    $("add-prompt").disabled = inputs.length >= MOST;
    this.dispatchEvent(new Event("prompts"));
  }

  /** @param {string[]} prompts */
  setPrompts(prompts) {
    $("prompts").replaceChildren();
    for (const prompt of prompts.length ? prompts : [""]) this.#addPrompt(prompt);
  }

  /** @param {import("./api.js").Model[]} models @param {string} first */
  setModels(models, first) {
    this.models = models;
    $("model").replaceChildren(...models.map((one) => el("option", { value: one.id }, one.fits ? one.id : `${one.id} (too large here)`)));
    $("model").value = first;
    this.#chosen();
  }

  #chosen() {
    const model = this.model;
    $("suggestions").hidden = !model?.sounds;
    $("suggestions").replaceChildren("It knows: ", ...(model?.sounds ?? []).map((sound) =>
      el("button", { type: "button", className: "chip", onclick: () => this.#suggest(sound) }, sound)));
    $("predict").disabled = !model?.spans;
    $("predict").closest("label").title = model?.spans ? "" : "Needs the span predictor: python -m convert --hf-path pe-a-frame-large";
    if (!model?.spans) $("predict").checked = false;
    $("find-spans").hidden = !model?.spans;
    this.dispatchEvent(new Event("model"));
  }

  #suggest(/** @type {string} */ sound) {
    const input = this.#inputs[Math.min(this.#last, this.#inputs.length - 1)];
    input.value = sound;
    this.#count();
    this.clearError(input.closest("[data-param]"));
    input.focus();
  }

  /** @param {any[]} spans @param {number[] | null} box @returns {any} all but the input; throws what a row lacks */
  request(spans, box) {
    const level = /** @type {any} */ (document.querySelector("[name=quality]:checked"))?.value;
    const told = this.prompts.map((prompt, i) => ({ prompt, spans: this.prompts.length > 1 ? spans[i] : spans }));
    const several = told.length > 1, empty = told.findIndex((one) => !one.prompt && !one.spans.length);
    if (several && empty >= 0) {
      throw Object.assign(new Error("Say what it is, or remove it."), { param: "description", control: this.#inputs[empty] });
    }
    const request = {
      ...this.others, model: $("model").value || undefined, quality: level, box: (this.model?.vision && box) || undefined,
      ...(several ? { descriptions: told.map((one) => one.prompt) } : { description: told[0].prompt }),
      spans: spans.flat().length ? spans : undefined,
      seed: Number($("seed").value), candidates: $("candidates").value === "auto" ? "auto" : Number($("candidates").value),
      gate: $("gate").checked, predict_spans: $("predict").checked && !spans.flat().length,
      stereo: $("stereo").value || undefined, residual: $("residual").value || undefined,
    };
    if (level) delete request.steps;
    return request;
  }

  /** Another recording: what was chosen for the last one's channels, or came with a take, goes. */
  forget() {
    this.others = {};
    $("stereo").value = $("residual").value = "";
    const radios = /** @type {any[]} */ ([...document.getElementsByName("quality")]);
    if (!radios.some((radio) => radio.checked)) radios[1].checked = true;
  }

  /** Brings back all that a take was made with. @param {any} request */
  load(request) {
    const { kind, input, title, description, descriptions, spans, box, ...settings } = request;
    const { model, seed, candidates, gate, predict_spans, stereo, residual, ...others } = settings;
    this.others = Object.fromEntries(Object.entries(others).filter(([, value]) => value !== null));
    this.setPrompts(descriptions ?? [description ?? ""]);
    if (this.models.some((one) => one.id === model)) { $("model").value = model; this.#chosen(); }
    const level = others.times ? undefined : quality(others);
    for (const radio of /** @type {any} */ (document.getElementsByName("quality"))) radio.checked = radio.value === level;
    $("seed").value = String(seed ?? 0);
    $("candidates").value = String(candidates ?? 1);
    $("gate").checked = Boolean(gate);
    $("predict").checked = Boolean(predict_spans) && !$("predict").disabled;
    $("stereo").value = stereo ?? "";
    $("residual").value = residual ?? "";
    this.clearErrors();
  }

  /** Shows a sentence at the field that it is about, or else above the running line; a missing token is told on top.
   * @param {any} error */
  fail(error) {
    this.clearErrors();
    if (error.status === 401) { $("connection").textContent = error.message; return; }
    const name = String(error.param ?? "").split(/[.[]/)[0];
    const field = name && document.querySelector(`[data-param~="${CSS.escape(name)}"]`);
    if (!field || field.closest("[hidden]")) {
      $("form-error").textContent = error.message;
      $("form-error").hidden = false;
      return;
    }
    const details = field.closest("details");
    if (details) details.open = true;
    const control = error.control ?? /** @type {any} */ (field).querySelector("input:not(.hidden), select, button, canvas");
    (error.control?.parentElement ?? field).append(el("p", { className: "error", role: "alert", id: `error-${name}` }, error.message));
    control?.setAttribute("aria-invalid", "true");
    control?.setAttribute("aria-describedby", `error-${name}`);
    field.scrollIntoView({ block: "nearest" });
    control?.focus({ preventScroll: true });
  }

  /** @param {Element | null} field */
  clearError(field) {
    field?.querySelectorAll(".error").forEach((error) => error.remove());
    for (const control of field?.querySelectorAll("[aria-invalid]") ?? []) {
      control.removeAttribute("aria-invalid");
      control.removeAttribute("aria-describedby");
    }
  }
  clearErrors() {
    document.querySelectorAll("[data-param]").forEach((field) => this.clearError(field));
    $("form-error").hidden = true;
  }
}
