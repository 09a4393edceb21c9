/**
 * All lanes on one clock. Pieces of sound are fetched a little ahead, and each is scheduled, in every
 * lane at once, at the sample where it begins; what is heard of a lane is its gain alone. Loops and
 * stalls are stretches of the same timetable, so lanes cannot drift apart, and an hour takes the
 * memory of a few pieces.
 */

import * as api from "./api.js";

const PIECE = 8; // seconds
const AHEAD = 3; // seconds that are scheduled: a page in the background wakes once a second
const RAMP = 0.01;

/** @typedef {{url: string, gain: GainNode | null, level: number, pieces: Map<number, Promise<{start: number, buffer: AudioBuffer}>>}} Track */

/** Emits "change" when it starts, stops, waits or is sought, and "error". */
export class Player extends EventTarget {
  /** @type {Map<string, Track>} */ tracks = new Map();
  /** @type {BaseAudioContext | null} */ context = null;
  rate = 0;
  frames = 0;
  playing = false;
  #at = 0; // the frame at which it stands while nothing plays
  #loop = /** @type {[number, number] | null} */ (null);
  #deck = /** @type {any} */ (null);
  #fetching = new AbortController();

  /** @param {(rate: number) => BaseAudioContext} open */
  constructor(open = (rate) => new AudioContext({ sampleRate: rate })) {
    super();
    this.open = open;
  }

  /** @param {{id: string, url: string}[]} lanes of one rate and length @param {number} rate @param {number} seconds */
  load(lanes, rate, seconds) {
    const before = this.seconds && Math.abs(this.seconds - seconds) < 0.05 ? this.time : 0; // the same recording: stay
    this.pause();
    this.#fetching.abort();
    this.#fetching = new AbortController();
    if (this.context && this.rate !== rate) {
      if (this.context instanceof AudioContext) void this.context.close();
      this.context = null;
    }
    this.rate = rate;
    this.frames = Math.round(seconds * rate);
    this.#loop = null;
    this.tracks = new Map(lanes.map(({ id, url }) => [id, { url, gain: null, level: 1, pieces: new Map() }]));
    this.seek(before);
  }

  get seconds() { return this.rate && this.frames / this.rate; }
  get time() { return this.rate && this.#frame() / this.rate; }
  /** Whether the next piece is not there yet. */
  get waiting() { return this.playing && (!this.#deck?.segments.length || this.#now() >= this.#deck.when); }

  /** Ramps to a gain within 10 ms. @param {string} id @param {number} level */
  setLevel(id, level) {
    const track = this.tracks.get(id);
    if (!track) return;
    track.level = level;
    if (!track.gain || !this.context) return;
    const gain = track.gain.gain, now = this.context.currentTime;
    const from = gain.value;
    gain.cancelScheduledValues(now);
    gain.setValueAtTime(from, now);
    gain.linearRampToValueAtTime(level, now + RAMP);
  }

  async play() {
    if (!this.frames) return;
    this.context ??= this.open(this.rate);
    for (const track of this.tracks.values()) {
      if (track.gain) continue;
      track.gain = this.context.createGain();
      track.gain.gain.value = track.level;
    }
    if (this.#at >= this.frames) this.#at = 0;
    this.playing = true;
    if (this.context instanceof AudioContext) await this.context.resume();
    if (this.playing) this.#start(this.#at);
  }

  pause() {
    this.#at = this.#frame();
    this.playing = false;
    this.#halt();
    this.#tell("change");
  }

  /** @param {number} seconds */
  seek(seconds) {
    this.#at = Math.round(Math.min(Math.max(0, seconds * this.rate || 0), this.frames));
    if (this.playing) this.#start(this.#at);
    else this.#tell("change");
  }

  /** @param {[number, number] | null} range in seconds, which is played over and over */
  set loop(range) {
    const frames = range && /** @type {[number, number]} */ (range.map((second) => Math.min(this.frames, Math.round(second * this.rate))));
    this.#loop = frames && frames[1] - frames[0] > 0.02 * this.rate ? frames : null;
    if (this.playing) this.#start(this.#frame());
    else this.#tell("change");
  }
  get loop() { return this.#loop && [this.#loop[0] / this.rate, this.#loop[1] / this.rate]; }

  #tell(/** @type {string} */ name, detail = undefined) { this.dispatchEvent(new CustomEvent(name, { detail })); }
  #now() { return Math.ceil((this.context?.currentTime ?? 0) * this.rate); }

  #frame() {
    const deck = this.playing && this.#deck;
    if (!deck || !deck.segments.length) return this.#at;
    const now = this.#now();
    while (deck.segments.length > 1 && deck.segments[1].when <= now) deck.segments.shift();
    const { when, media, frames } = deck.segments[0];
    return media + Math.min(Math.max(0, now - when), frames);
  }

  /** Schedules all anew, from a frame on. */
  #start(/** @type {number} */ frame) {
    this.#halt();
    this.#at = frame;
    const gain = /** @type {BaseAudioContext} */ (this.context).createGain();
    gain.connect(/** @type {BaseAudioContext} */ (this.context).destination);
    for (const track of this.tracks.values()) track.gain?.connect(gain);
    this.#deck = { gain, sources: new Set(), segments: [], media: frame, when: 0 };
    this.#pump(this.#deck).catch((error) => {
      if (error.name === "AbortError" || !this.playing) return;
      this.pause();
      this.#tell("error", error);
    });
    this.#tell("change");
  }

  #halt() {
    const deck = this.#deck;
    if (!deck || !this.context) return;
    this.#deck = null;
    const now = this.context.currentTime;
    deck.gain.gain.setValueAtTime(1, now);
    deck.gain.gain.linearRampToValueAtTime(0, now + RAMP);
    for (const source of deck.sources) source.stop(now + RAMP);
    setTimeout(() => deck.gain.disconnect(), 100);
  }

  /** Keeps the timetable of a deck filled until another one has taken over. */
  async #pump(/** @type {any} */ deck) {
    while (deck === this.#deck) {
      const loop = this.#loop && deck.media <= this.#loop[1] ? this.#loop : null;
      const end = loop ? loop[1] : this.frames;
      if (deck.media >= end && loop) deck.media = loop[0];
      else if (deck.media >= end) {
        if (this.#now() < deck.when) await new Promise((go) => setTimeout(go, 50));
        else { this.pause(); this.#at = this.frames; this.#tell("change"); }
      } else if (deck.when > this.#now() + AHEAD * this.rate) await new Promise((go) => setTimeout(go, 100));
      else {
        const index = Math.floor(deck.media / (PIECE * this.rate));
        const pieces = await Promise.all([...this.tracks.values()].map((track) => this.#piece(track, index)));
        if (deck !== this.#deck) return;
        this.#schedule(deck, pieces, Math.min(end, (index + 1) * PIECE * this.rate));
        this.#fetchAround(index, loop);
      }
    }
  }

  /** One segment in all lanes: from where the deck is, to a frame. */
  #schedule(/** @type {any} */ deck, /** @type {any[]} */ pieces, /** @type {number} */ end) {
    const context = /** @type {BaseAudioContext} */ (this.context);
    const when = Math.max(deck.when, this.#now() + Math.round(0.03 * this.rate)); // late: all wait alike
    const frames = end - deck.media;
    [...this.tracks.values()].forEach((track, i) => {
      const source = context.createBufferSource();
      source.buffer = pieces[i].buffer;
      source.connect(/** @type {GainNode} */ (track.gain));
      source.start(when / this.rate, (deck.media - pieces[i].start) / this.rate, frames / this.rate);
      deck.sources.add(source);
      source.onended = () => { deck.sources.delete(source); source.disconnect(); };
    });
    deck.segments.push({ when, media: deck.media, frames });
    deck.when = when + frames;
    deck.media = end;
  }

  /** The next piece comes in good time, and those far away go. */
  #fetchAround(/** @type {number} */ index, /** @type {[number, number] | null} */ loop) {
    const keep = new Set([index - 1, index, index + 1]);
    if (loop) keep.add(Math.floor(loop[0] / (PIECE * this.rate)));
    for (const track of this.tracks.values()) {
      for (const old of track.pieces.keys()) if (!keep.has(old)) track.pieces.delete(old);
      if ((index + 1) * PIECE * this.rate < this.frames) this.#piece(track, index + 1).catch(() => {});
    }
  }

  #piece(/** @type {Track} */ track, /** @type {number} */ index) {
    let piece = track.pieces.get(index);
    if (!piece) {
      piece = this.#fetch(track.url, index);
      piece.catch(() => track.pieces.delete(index));
      track.pieces.set(index, piece);
    }
    return piece;
  }

  async #fetch(/** @type {string} */ url, /** @type {number} */ index) {
    const to = Math.min((index + 1) * PIECE, this.seconds);
    const { rate, channels, start, values } = await api.pcm(url, index * PIECE, to, this.#fetching.signal);
    const buffer = /** @type {BaseAudioContext} */ (this.context).createBuffer(channels, Math.max(1, values.length / channels), rate);
    for (let channel = 0; channel < channels; channel++) {
      const samples = buffer.getChannelData(channel);
      for (let i = 0; i < samples.length; i++) samples[i] = values[i * channels + channel] ?? 0;
    }
    return { start, buffer };
  }
}
