/** What the server offers, and how it is asked. */

/**
 * @typedef {{id: string, name: string, bytes: number, seconds: number, sample_rate: number, channels: number,
 *   video: null | {width: number, height: number}, description?: string}} File
 * @typedef {{url: string, description: string, peak: number}} Stem
 * @typedef {["+" | "-", number, number]} SpanValue
 * @typedef {{stage: string, done: number, total: number, fraction: number, seconds_left: number | null}} Progress
 * @typedef {{id: string, kind: string, status: string, position: number | null, title: string, created: number,
 *   started: number | null, finished: number | null, eta_seconds: number | null, input: any, request: any,
 *   progress: Progress | null, error: null | {message: string}, notes: string[], spans: any[], predicted: boolean,
 *   seconds: number, sample_rate: number, channels: number, stems: Record<string, Stem>, absent: any[], video: boolean,
 *   report: string, labels: string, zip: string}} Job
 * @typedef {{id: string, bytes: number, sample_rate: number, vision: boolean, fits: boolean, bundled: boolean,
 *   sounds: string[] | null, spans: boolean}} Model
 */

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) { // neither kept in the address nor sent to anybody
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("token");
/** @type {Record<string, string>} */ const headers = token ? { Authorization: `Bearer ${token}` } : {};

const UNKNOWN = "Open the address that the playground printed: it holds the token.";

/** An answer that says what is wrong, in a sentence, and with which field. */
export class Refused extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    const message = status === 401 ? UNKNOWN : body?.error?.message;
    super(message ?? `The server answered with the status ${status}.`);
    this.status = status;
    this.param = body?.error?.param ?? null;
  }
}

/** @param {string} url @param {RequestInit} [options] */
async function ask(url, options = {}) {
  const response = await fetch(url, { ...options, headers: { ...headers, ...options.headers } });
  if (response.ok) return response;
  throw new Refused(response.status, await response.json().catch(() => null));
}
/** @param {string} url @param {string} [method] @param {any} [body] @returns {Promise<any>} */
async function json(url, method = "GET", body) {
  const options = body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const response = await ask(url, options);
  return response.status === 204 ? null : response.json();
}

/** An address for what elements load, which send no headers. @param {string} url */
export const address = (url) => (token ? `${url}${url.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}` : url);
/** @param {string} url */
export const download = (url) => address(`${url}${url.includes("?") ? "&" : "?"}download=1`);

/** @returns {Promise<{default: string, data: Model[]}>} */
export const models = () => json("/v1/models");
/** @returns {Promise<File>} */
export const file = (/** @type {string} */ id) => json(`/v1/files/${id}`);
/** @returns {Promise<File>} */
export const example = () => json("/v1/files/example", "POST");
/** @returns {Promise<Job[]>} */
export const jobs = async () => (await json("/v1/jobs")).data;
/** @returns {Promise<Job>} */
export const job = (/** @type {string} */ id) => json(`/v1/jobs/${id}`);
/** @returns {Promise<Job>} */
export const start = (/** @type {any} */ request) => json("/v1/jobs", "POST", request);
export const cancel = (/** @type {string} */ id) => json(`/v1/jobs/${id}/cancel`, "POST");
export const rename = (/** @type {string} */ id, /** @type {string} */ title) => json(`/v1/jobs/${id}`, "PATCH", { title });
export const forget = (/** @type {string} */ id) => json(`/v1/jobs/${id}`, "DELETE");

/** XMLHttpRequest, since fetch does not tell how far an upload is.
 * @param {globalThis.File} sound @param {(fraction: number) => void} tell 1 when all is sent, and the server reads it
 * @param {AbortSignal} signal @returns {Promise<File>} */
export const upload = (sound, tell, signal) => new Promise((done, failed) => {
  const request = new XMLHttpRequest();
  request.open("POST", `/v1/files?name=${encodeURIComponent(sound.name)}`);
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.responseType = "json";
  request.upload.onprogress = (event) => tell(event.loaded / Math.max(1, event.total));
  request.upload.onload = () => tell(1);
  request.onload = () => (request.status < 300 ? done(request.response) : failed(new Refused(request.status, request.response)));
  request.onerror = () => failed(new Error("The server cannot be reached."));
  signal.onabort = () => { request.abort(); failed(signal.reason); };
  request.send(sound);
});

/** @param {string} url @param {Record<string, any>} values of which undefined ones are left out */
const query = (url, values) =>
  `${url}?${new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined))}`;

/** @param {string} url @param {number} points @param {number} [from] @param {number} [to]
 * @returns {Promise<{from: number, to: number, min: number[], max: number[], peak: number}>} */
export const peaks = (url, points, from, to) =>
  json(query(`${url}/peaks`, { points, from, to }));

/** @param {string} url @param {number} columns @param {number} [from] @param {number} [to] @param {number} [top]
 * @returns {Promise<{columns: number, bins: number, top: number, nyquist: number, values: Uint8Array}>} */
export async function spectrogram(url, columns, from, to, top) {
  const response = await ask(query(`${url}/spectrogram`, { columns, from, to, top }));
  const [width, bins, loudest, nyquist] = ["X-Columns", "X-Bins", "X-Top", "X-Nyquist"].map((name) => Number(response.headers.get(name)));
  return { columns: width, bins, top: loudest, nyquist, values: new Uint8Array(await response.arrayBuffer()) };
}

/** @param {string} url @param {number} from @param {number} to @param {AbortSignal} [signal]
 * @returns {Promise<{rate: number, channels: number, start: number, values: Float32Array}>} */
export async function pcm(url, from, to, signal) {
  const response = await ask(query(`${url}/pcm`, { from, to }), { signal });
  const [rate, channels, start] = ["X-Rate", "X-Channels", "X-Start"].map((name) => Number(response.headers.get(name)));
  return { rate, channels, start, values: new Float32Array(await response.arrayBuffer()) };
}

const FINAL = new Set(["done", "failed", "cancelled"]);
const pause = (/** @type {number} */ ms) => new Promise((go) => setTimeout(go, ms));

/** Aborted when the page is hidden. */
function whileVisible() {
  const hidden = new AbortController();
  document.addEventListener("visibilitychange", () => hidden.abort(), { once: true });
  return hidden.signal;
}

/**
 * The events of a job to its end, over broken connections; by asking where no stream comes through, and while the page
 * is hidden: a browser has six connections to a server, for all its windows.
 * @param {string} id @param {AbortSignal} signal @returns {AsyncGenerator<{event: string, data: any}>}
 */
export async function* events(id, signal) {
  let last = "";
  for (let failures = 0; !signal.aborted; failures++) {
    if (document.hidden) failures = 0;
    else try {
      const streamed = AbortSignal.any([signal, whileVisible()]);
      const response = await ask(`/v1/jobs/${id}/events`, { signal: streamed, headers: last ? { "Last-Event-ID": last } : {} });
      for await (const message of messages(response)) {
        failures = 0;
        last = message.id ?? last;
        yield { event: message.event, data: message.data };
        if (FINAL.has(message.event)) return;
      }
    } catch (error) {
      if (signal.aborted || error instanceof Refused && error.status === 404) return;
    }
    await pause(document.hidden ? 1500 : Math.min(5000, 250 * 2 ** failures));
    if (signal.aborted || failures < 2 && !document.hidden) continue;
    const state = await job(id).catch(() => null);
    if (state) yield { event: FINAL.has(state.status) ? state.status : "state", data: state };
    if (state && FINAL.has(state.status)) return;
  }
}

/** @param {Response} response */
async function* messages(response) {
  const reader = /** @type {any} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "", part; (part = await reader.read()), !part.done; ) {
    const blocks = (text + part.value).replaceAll("\r\n", "\n").split("\n\n");
    text = /** @type {string} */ (blocks.pop());
    for (const block of blocks) {
      const lines = block.split("\n").map((line) => /** @type {any} */ (/^(.*?): ?(.*)$/.exec(line)) ?? ["", line, ""]);
      const fields = Object.fromEntries(lines.map(([, name, value]) => [name, value]));
      if (fields.data) yield { event: fields.event ?? "message", id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}
