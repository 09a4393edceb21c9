"""Seventeen families of synthetic sounds, their descriptions, and mixtures of them.

This is the one source of sounds for the demo model: its training, the `--demo` command, the tests
and the quality benchmark. Only numpy is needed. Every random draw comes from the `Generator` that
the caller passes, through `random` and `uniform` alone (NumPy may change the streams of the
others), so a seed gives the same sounds again.

Audio is mono float32 at 16 kHz. The demo codec carries 5000 numbers per second, enough for a band
of 2.5 kHz, so every family keeps its energy below that.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

SAMPLE_RATE = 16000
HOP = 128  # samples per latent frame of the demo codec
_TABLE = 8192  # samples in one period of a wavetable; a power of two, so that a mask wraps it

Make = Callable[[Generator, int], np.ndarray]  # (rng, n) -> (n,) at any level
Tone = Callable[[np.ndarray], np.ndarray]  # phase in cycles (T,) -> samples (T,)


@dataclass(frozen=True)
class Family:
    """A kind of sound and what it is called; `heldout` wordings are never used in training."""

    make: Make
    phrases: tuple[str, ...]
    heldout: tuple[str, ...]


FAMILIES: dict[str, Family] = {}


def _called(phrases: str, heldout: str, counted: bool = True) -> Callable[[Make], Make]:
    """Enters a function into FAMILIES, with its training and its held-out descriptions.

    counted: whether its name takes an article.
    """

    def register(make: Make) -> Make:
        name = make.__name__.strip("_")
        article = ("an " if name[0] in "aeiou" else "a ") * counted
        the_sound = f"the sound of {article}{name}"
        trained = (*phrases.split(", "), the_sound)
        FAMILIES[name] = Family(make, trained, tuple(heldout.split(", ")))
        return make

    return register


def _time(seconds: float) -> np.ndarray:
    """Seconds from the start, (T,)."""
    return np.arange(round(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE


def _pick(rng: Generator, items: Sequence):
    return items[int(rng.random() * len(items))]


def _phase(frequency: np.ndarray) -> np.ndarray:
    """Phase in cycles (T,) of a tone whose frequency (T,) in Hz varies."""
    return np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE


def _sine(cycles: np.ndarray) -> np.ndarray:
    return np.sin((2 * np.pi * cycles).astype(np.float32))


def _tone(levels: Sequence[float], offsets: np.ndarray | float = 0.0) -> Tone:
    """A tone of harmonics, `offsets` being their phases; a table is faster than a sine for each."""
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex64)
    spectrum[1 : len(levels) + 1] = np.array(levels) * np.exp(2j * np.pi * offsets) * _TABLE / 2j
    table = np.fft.irfft(spectrum, _TABLE).astype(np.float32)
    return lambda cycles: table[(cycles * _TABLE).astype(np.int64) & (_TABLE - 1)]


def _noise(rng: Generator, n: int, low: float, high: float, edge: float) -> np.ndarray:
    """Noise (n,) from low to high Hz, fading out over `edge` Hz on both sides; RMS about 1."""
    size = -(-n // 4000) * 4000  # a length with a fast FFT
    first, last = int((low - edge) * size / SAMPLE_RATE), int((high + edge) * size / SAMPLE_RATE)
    f = np.arange(first, last) * SAMPLE_RATE / size
    gain = np.clip(1 - np.maximum(low - f, f - high) / edge, 0, 1)
    spectrum = np.zeros(size // 2 + 1, np.complex64)
    spectrum[first:last] = (rng.random((len(f), 2)) - 0.5) @ (1, 1j) * gain
    return np.fft.irfft(spectrum * (size * np.sqrt(3 / np.square(gain).sum())), size)[:n]


def _fade(n: int, seconds: float) -> np.ndarray:
    """Ones (n,) with raised-cosine ends of the given length."""
    k = min(round(seconds * SAMPLE_RATE), n // 2)
    gate = np.ones(n, np.float32)
    gate[:k] = 0.5 - 0.5 * np.cos(np.pi * np.arange(k) / k)
    gate[n - k :] = gate[:k][::-1]
    return gate


def _pluck(t: np.ndarray, attack: float, decay: float) -> np.ndarray:
    """An envelope (T,): linear attack, exponential decay, both in seconds."""
    return np.minimum(t / attack, 1) * np.exp(t * (-1 / decay))


def _play(n: int, at: float, note: Callable[[], tuple[np.ndarray, float]]) -> np.ndarray:
    """Notes one after another, (n,): `note` makes one and says after how many s the next begins."""
    out = np.zeros(n, np.float32)
    while at < n / SAMPLE_RATE:
        sound, step = note()
        part = out[round(at * SAMPLE_RATE) :][: len(sound)]
        part += sound[: len(part)]
        at += step
    return out


@_called("beep, a beep, electronic beeping, beeps, an alarm beeping", "an electronic beep, beeping")
def _beep(rng: Generator, n: int) -> np.ndarray:
    """Short tones of one fixed pitch, hard on and off, singly or in twos and threes."""
    cycles = rng.uniform(750, 1150) * _time(rng.uniform(0.07, 0.16))
    tone = _tone([1, rng.uniform(0.1, 0.5)])(cycles) * _fade(len(cycles), 0.004)
    gap = np.zeros(len(_time(rng.uniform(0.05, 0.1))), np.float32)
    group = np.tile(np.concatenate([tone, gap]), _pick(rng, (1, 1, 2, 3)))
    step = len(group) / SAMPLE_RATE + rng.uniform(0.1, 0.2)
    return _play(n, rng.uniform(0, 0.2), lambda: (group, step))


@_called("siren, a siren wailing, a police siren, an ambulance siren", "a siren, a wailing siren")
def _siren(rng: Generator, n: int) -> np.ndarray:
    """A reedy tone that sweeps up and down over more than an octave without a break."""
    rate = rng.uniform(0.6, 1.1) if rng.random() < 0.6 else rng.uniform(1.5, 2.8)  # wail or yelp
    place = (rate * _time(n / SAMPLE_RATE) + rng.random()) % 1
    curved = rng.random() < 0.5
    height = 0.5 - 0.5 * np.cos(2 * np.pi * place) if curved else 1 - np.abs(2 * place - 1)
    cycles = _phase(rng.uniform(300, 400) * np.exp2(rng.uniform(1.2, 1.5) * height))
    body = _tone([1, rng.uniform(0.4, 0.7)])
    reed = _tone([0, 0, rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.4)])
    # The reed fades on the way up, where it would leave the codec's band.
    return body(cycles) + reed(cycles) * np.square(1 - height)


@_called("hiss, hissing noise, steam hissing, white noise, static noise", "a hissing noise")
def _hiss(rng: Generator, n: int) -> np.ndarray:
    """Bright noise, steady or in soft bursts."""
    low = rng.uniform(700, 1200)
    noise = _noise(rng, n, low, low + rng.uniform(700, 1000), edge=200)
    if rng.random() < 0.4:
        return noise
    period, on, edge = rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.75), rng.uniform(0.02, 0.06)
    place = (_time(n / SAMPLE_RATE) + rng.uniform(0, period)) % period
    return noise * np.clip(np.minimum(place, on * period - place) / edge, 0, 1)


@_called("clock, a clock ticking, ticking, clicks, a ticking clock", "clock ticking")
def _clock(rng: Generator, n: int) -> np.ndarray:
    """Dry wooden ticks in an even rhythm, often tick and tock in turn."""
    t = _time(0.05)
    pitch, tock = rng.uniform(1300, 2000), rng.uniform(0.7, 0.85) if rng.random() < 0.6 else 1
    envelope = _pluck(t, 0.0008, rng.uniform(0.006, 0.010))
    notes = [(_sine(f * t) + 0.6 * _sine(0.53 * f * t)) * envelope for f in (pitch, pitch * tock)]
    notes, period = itertools.cycle(notes), rng.uniform(0.18, 0.32)
    return _play(n, rng.uniform(0, 0.2), lambda: (next(notes), period))


@_called(
    "engine, an engine humming, engine idling, a motor running, a car engine",
    "a humming engine, an engine running",
)
def _engine(rng: Generator, n: int) -> np.ndarray:
    """A dense low rumble that never stops: a dozen harmonics, every second stroke louder."""
    t = _time(n / SAMPLE_RATE)
    slow = 0.04 * _sine(rng.uniform(0.2, 0.8) * t + rng.random())
    flutter = 0.01 * _sine(rng.uniform(4, 9) * t)
    cycles = _phase(rng.uniform(50, 95) * (1 + slow + flutter))
    levels = np.arange(1.0, 13) ** -rng.uniform(0.7, 1.1) * rng.uniform(0.5, 1, 12)
    strokes = 1 + rng.uniform(0.3, 0.6) * _sine(cycles / 2)
    return _tone(levels, rng.random(12))(cycles) * strokes


@_called("bird, birds chirping, a bird chirping, bird song, a bird singing", "a chirping bird")
def _bird(rng: Generator, n: int) -> np.ndarray:
    """Trills of very short, steep chirps in the highest band, with pauses between the trills."""
    place = np.linspace(-0.5, 0.5, len(_time(rng.uniform(0.035, 0.08))))
    shape = np.cos(np.pi * place) ** 2
    gap = np.zeros(len(_time(rng.uniform(0.015, 0.045))))
    centre, sweep = rng.uniform(1750, 1950), rng.uniform(350, 700) * _pick(rng, (-1, 1))
    count = rng.uniform(3, 8)

    def trill():
        f = centre * rng.uniform(0.94, 1.06) + sweep * rng.uniform(0.8, 1) * place
        chirp = np.concatenate([_sine(_phase(f)) * shape, gap])
        chirps = np.tile(chirp, int(count * rng.uniform(0.7, 1.3)))
        return chirps, len(chirps) / SAMPLE_RATE + rng.uniform(0.08, 0.25)

    return _play(n, rng.uniform(0, 0.15), trill)


@_called("bell, a bell ringing, bells, a church bell, a bell chiming", "church bells ringing")
def _bell(rng: Generator, n: int) -> np.ndarray:
    """Strikes that ring out slowly, with the inharmonic partials of a church bell."""
    t = _time(1.5)
    pitch, slow = rng.uniform(320, 580), rng.uniform(0.7, 1.1)
    strike = np.zeros(len(t), np.float32)
    ratios = (0.5, 1, 1.19, 1.5, 2, 2.74, 3.76)
    levels = (0.35, 0.9, 0.7, 0.3, 0.8, 0.45, 0.35) * rng.uniform(0.7, 1.2, 7)
    decays = (0.8, 0.6, 0.5, 0.35, 0.35, 0.2, 0.12)  # the high partials die first
    for ratio, level, decay in zip(ratios, levels, decays, strict=True):
        part = t[: round(7 * decay * SAMPLE_RATE)]  # to about -60 dB
        envelope = level * _pluck(part, 0.003, decay * slow)
        strike[: len(part)] += _sine(pitch * ratio * part) * envelope
    strike *= _fade(len(t), 0.002)
    period = rng.uniform(0.5, 1.1)
    onset = rng.uniform(0, 0.25)
    return _play(n, onset, lambda: (strike * rng.uniform(0.7, 1), period * rng.uniform(0.95, 1.05)))


@_called("drums, a drum beat, drum hits, someone drumming, a drum", "drums playing")
def _drum(rng: Generator, n: int) -> np.ndarray:
    """A beat of eight steps: kicks that fall in pitch, snares of noise, a hat on every step."""
    t = _time(0.25)
    fall = rng.uniform(50, 70) + rng.uniform(150, 250) * np.exp(t / -0.03)
    kick = 1.2 * _sine(_phase(fall)) * _pluck(t, 0.001, 0.07)
    snare = 0.7 * _sine(rng.uniform(180, 240) * t) + 0.9 * _noise(rng, len(t), 400, 1600, 300)
    snare *= _pluck(t, 0.001, 0.05)
    hat = rng.uniform(0.3, 0.5) * _noise(rng, len(t), 1700, 2200, 200) * _pluck(t, 0.001, 0.02)
    bar = [_pick(rng, (kick, kick, snare, 0 * t, 0 * t)) + hat for _ in range(8)]
    bar[0], bar[4] = kick + hat, snare + hat  # every bar has both, so that it is never a bass
    step, first = rng.uniform(0.11, 0.19), _pick(rng, (0, 2, 4))
    hits = itertools.cycle(bar[first:] + bar[:first])
    return _play(n, rng.uniform(0, 0.1), lambda: (next(hits), step))


@_called("bass, a bass line, bass guitar, a bass guitar playing, low bass notes", "a bass playing")
def _bass(rng: Generator, n: int) -> np.ndarray:
    """A line of plucked low notes: each starts bright, turns dark, and dies away."""
    root, beat = rng.uniform(62, 105), rng.uniform(0.2, 0.4)
    bright, decay = rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.35)
    body = _tone([1, 0.7 * bright**0.5, bright, bright**2])
    string = _tone(0.8 * bright / np.arange(1, 9) ** 0.5)

    def note():
        step = beat * _pick(rng, (1, 1, 2))
        t = _time(step * rng.uniform(0.8, 0.95))
        cycles = root * 2 ** (_pick(rng, (0, 3, 5, 7, 10, 12)) / 12) * t
        sound = body(cycles) * _pluck(t, 0.006, decay) + string(cycles) * _pluck(t, 0.003, 0.05)
        return sound * _fade(len(t), 0.008), step

    return _play(n, rng.uniform(0, 0.15), note)


@_called(
    "whistle, a person whistling, whistling, someone whistling a tune, a whistle blowing",
    "a whistling person, a person whistling a tune",
)
def _whistle(rng: Generator, n: int) -> np.ndarray:
    """A pure tone with vibrato that glides up and down in turn; a breath after a few notes."""
    base, sign = rng.uniform(1100, 1350), _pick(rng, (-1, 1))
    rate, depth = rng.uniform(4.5, 6.5), rng.uniform(0.2, 0.4)  # vibrato: Hz, semitones

    def tune():
        count = _pick(rng, (2, 3, 4))
        times = np.cumsum(rng.uniform((0.12, 0.12), (0.3, 0.35), (count, 2)))  # glide, hold, ...
        steps = sign * np.resize([1, -1], count) * rng.uniform(1, 6, count)
        t = _time(times[-1])
        pitch = np.interp(t, [0, *times], [0, *np.repeat(steps, 2)]) + depth * _sine(rate * t)
        sound = _sine(_phase(base * np.exp2(pitch / 12))) * _fade(len(t), 0.05)
        return sound, times[-1] + rng.uniform(0.08, 0.2)

    return _play(n, rng.uniform(0, 0.2), tune)


VOWELS = {  # formants in Hz, of a man
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (290, 2100, 2400),
    "o": (570, 840, 2410), "u": (320, 870, 2240), "er": (490, 1350, 1690),
}  # fmt: skip


def _vowel(pitch: float, formants: Sequence[float], size: float) -> Tone:
    """A tone of glottal pulses through resonances; `size` scales their frequencies."""
    f = pitch * np.arange(1, int(2150 / pitch) + 1)
    gains = [
        level / (1 + np.square((f - size * formant) / width))
        for level, width, formant in zip((1, 0.6, 0.25), (70, 90, 130), formants, strict=True)
    ]
    return _tone((0.02 + sum(gains)) * (f / pitch) ** -0.3)


@_called(
    "speech, a person speaking, a man talking, a woman talking, someone speaking",
    "a person talking, someone talking",
)
def _voice(rng: Generator, n: int) -> np.ndarray:
    """Syllables of gliding vowels behind short consonants of noise, falling in pitch to a pause."""
    pitch, size = rng.uniform(95, 150), rng.uniform(0.95, 1.02)
    if rng.random() < 0.5:  # a woman
        pitch, size = rng.uniform(170, 250), rng.uniform(1.05, 1.15)
    voices = [_vowel(pitch, formants, size) for formants in VOWELS.values()]
    pace = rng.uniform(0.13, 0.22)

    def phrase():
        syllables, count = [], _pick(rng, (3, 4, 5, 6, 7))
        for i in range(count):
            if rng.random() < 0.6:
                low = rng.uniform(900, 1600)
                k = int(rng.uniform(0.03, 0.09) * SAMPLE_RATE)
                hush = _noise(rng, k, low, low + 500, 200) * _fade(k, 0.012)
                syllables.append(rng.uniform(0.08, 0.25) * hush)
            t = _time(pace * rng.uniform(0.7, 1.4))
            glide = 0.5 - 0.5 * np.cos(np.pi * np.clip(1.6 * t / t[-1] - 0.2, 0, 1))
            rise = rng.uniform(-0.1, 0.1) * t / t[-1] - 0.2 * (i + rng.random()) / count
            cycles = _phase(pitch * 1.1 * np.exp2(rise))
            vowel = (1 - glide) * _pick(rng, voices)(cycles) + glide * _pick(rng, voices)(cycles)
            syllables.append(vowel * rng.uniform(0.6, 1) * _fade(len(t), 0.025))
        speech = np.concatenate(syllables)
        return speech, len(speech) / SAMPLE_RATE + rng.uniform(0.1, 0.35)

    return _play(n, rng.uniform(0, 0.15), phrase)


SCALE = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16)  # semitones of a major scale


@_called("piano, a piano playing, piano music, someone playing the piano, piano notes",
         "a piano, piano chords")  # fmt: skip
def _piano(rng: Generator, n: int) -> np.ndarray:
    """Notes and chords of slightly stretched partials, hammered on and ringing on for long."""
    root, beat = rng.uniform(196, 330), rng.uniform(0.22, 0.45)
    bright, slow = rng.uniform(0.45, 0.65), rng.uniform(0.5, 1)
    t, known = _time(1.6), {}

    def key(degree: int) -> np.ndarray:
        if degree not in known:
            pitch, sound = root * 2 ** (SCALE[degree] / 12), np.zeros(len(t), np.float32)
            for k in range(1, int(2400 / pitch) + 1):
                decay = slow * 0.9 / k**0.7
                part = t[: round(7 * decay * SAMPLE_RATE)]
                f = k * pitch * (1 + 0.0004 * k * k) ** 0.5
                sound[: len(part)] += bright ** (k - 1) * _sine(f * part) * np.exp(-part / decay)
            known[degree] = sound * np.minimum(t / 0.003, 1) * _fade(len(t), 0.002)
        return known[degree]

    def chord():
        low = _pick(rng, range(6))
        degrees = range(low, low + _pick(rng, (1, 1, 3, 5)), 2)
        return sum(map(key, degrees)) * rng.uniform(0.6, 1), beat * _pick(rng, (1, 1, 2))

    return _play(n, rng.uniform(0, 0.15), chord)


@_called("guitar, a guitar playing, an acoustic guitar, guitar strumming, a guitar being plucked",
         "acoustic guitar music, a plucked guitar")  # fmt: skip
def _guitar(rng: Generator, n: int) -> np.ndarray:
    """Quick arpeggios and strums of plucked strings, which start bright and soon turn dark."""
    root, beat = rng.uniform(98, 165), rng.uniform(0.11, 0.2)
    place, damping = rng.uniform(0.12, 0.3), rng.uniform(0.5, 1)
    chords = ((0, 7, 12, 16, 19), (0, 7, 12, 15, 19), (5, 12, 17, 21, 24), (7, 14, 19, 23, 26))
    t, known = _time(0.9), {}

    def string(semitones: int) -> np.ndarray:
        if semitones not in known:
            pitch, sound = root * 2 ** (semitones / 12), np.zeros(len(t), np.float32)
            for k in range(1, int(2300 / pitch) + 1):
                decay = damping / (1 + (k / 3) ** 1.5)  # of a string that averages neighbours
                part = t[: round(7 * decay * SAMPLE_RATE)]
                level = np.sin(np.pi * k * place) / k**0.8
                sound[: len(part)] += level * _sine(k * pitch * part) * np.exp(-part / decay)
            known[semitones] = sound * np.minimum(t / 0.001, 1) * _fade(len(t), 0.001)
        return known[semitones]

    def bar():
        chord = _pick(rng, chords)
        strummed = rng.random() < 0.35
        order = range(5) if strummed else (0, 2, 3, 4, 3, 2)
        lag = 0.02 if strummed else beat
        notes = iter([string(chord[i]) for i in order])
        length = lag * (len(order) - 1)
        sound = _play(len(t) + int(length * SAMPLE_RATE), 0, lambda: (next(notes, t[:1]), lag))
        return sound * rng.uniform(0.7, 1), beat * (3 if strummed else len(order))

    return _play(n, rng.uniform(0, 0.1), bar)


def _scatter(rng: Generator, n: int, grains: Sequence[np.ndarray], times: np.ndarray) -> np.ndarray:
    """Any of the grains, at any level, at each of the times in seconds; (n,)."""
    out = np.zeros(n + max(map(len, grains)), np.float32)
    starts = (times * SAMPLE_RATE).astype(int)
    which = (rng.random(len(starts)) * len(grains)).astype(int)
    levels = rng.uniform(0.1, 1, len(starts)) ** 2
    for start, i, level in zip(starts, which, levels, strict=True):
        out[start : start + len(grains[i])] += level * grains[i]
    return out[:n]


@_called("rain, rain falling, raindrops, heavy rain, rain on a roof",
         "the rain, falling rain", counted=False)  # fmt: skip
def _rain(rng: Generator, n: int) -> np.ndarray:
    """Countless drops, each a very short ping of its own pitch, over a faint rush."""
    t, low = _time(0.025), rng.uniform(1000, 1300)
    drops = [
        _sine(rng.uniform(low, 2250) * t) * _pluck(t, 0.0005, rng.uniform(0.002, 0.005))
        for _ in range(16)
    ]
    count = int(n / SAMPLE_RATE * rng.uniform(90, 300)) + 1
    rush = 0.04 * _noise(rng, n, low, 2100, 200)
    return _scatter(rng, n, drops, rng.uniform(0, n / SAMPLE_RATE, count)) + rush


@_called("applause, people clapping, an audience clapping, clapping, a crowd applauding",
         "hands clapping, an applauding audience", counted=False)  # fmt: skip
def _applause(rng: Generator, n: int) -> np.ndarray:
    """A few dozen people clap, each with a pace and a pair of hands of his own."""
    seconds, people, t = n / SAMPLE_RATE, int(rng.uniform(6, 18)), _time(0.05)
    claps = []
    for _ in range(8):
        low = rng.uniform(350, 750)
        claps.append(_noise(rng, len(t), low, low + 450, 200) * _pluck(t, 0.001, 0.009))
    times = []
    for pace in rng.uniform(0.19, 0.3, people):
        beats = np.arange(rng.uniform(0, pace), seconds, pace)
        times.append(beats + rng.uniform(0, 0.03, len(beats)))
    times = np.concatenate(times)
    return _scatter(rng, n, claps, times[times < seconds])


@_called("dog, a dog barking, barking, a dog, dogs barking", "a barking dog, a dog barks")
def _dog(rng: Generator, n: int) -> np.ndarray:
    """Barks, singly or in twos and threes: rough, loud in the middle of the mouth, falling."""
    pitch, mouth, rough = rng.uniform(280, 480), rng.uniform(750, 1150), rng.uniform(55, 85)
    f = pitch * np.arange(1, int(1800 / pitch) + 1)
    tone = _tone(0.15 + 1 / (1 + np.square((f - mouth) / 300)), rng.random(len(f)))
    count, pause = _pick(rng, (1, 2, 2, 3)), rng.uniform(0.25, 0.6)
    left = itertools.cycle(range(count))

    def bark():
        t = _time(rng.uniform(0.11, 0.2))
        place = t / t[-1]
        cycles = _phase(pitch * np.exp2(0.5 * np.sin(np.pi * place**0.5) - 0.5 * place))
        breath = 0.5 * _noise(rng, len(t), mouth - 300, mouth + 500, 200)
        sound = (tone(cycles) + breath) * (1 + 0.6 * _sine(rough * t))
        envelope = np.minimum(place / 0.1, 1) * (1 - place) ** 0.7
        more = next(left) < count - 1
        step = t[-1] + (rng.uniform(0.06, 0.14) if more else pause)
        return sound * envelope * rng.uniform(0.8, 1), step

    return _play(n, rng.uniform(0, 0.2), bark)


@_called("footsteps, someone walking, a person walking, steps, walking on a floor",
         "a walking person, footsteps on a floor", counted=False)  # fmt: skip
def _footsteps(rng: Generator, n: int) -> np.ndarray:
    """An even walk: a dull heel, then a softer sole with a scuff; left and right in turn."""
    t, period = _time(0.3), rng.uniform(0.4, 0.62)
    hard, roll = rng.uniform(0.3, 0.8), round(rng.uniform(0.07, 0.12) * SAMPLE_RATE)

    def foot(pitch: float) -> np.ndarray:
        low = rng.uniform(300, 500)
        heel = _sine(pitch * t) + hard * _noise(rng, len(t), low, low + 500, 150)
        heel *= _pluck(t, 0.002, 0.022)
        sole = _sine(0.8 * pitch * t) * _pluck(t, 0.006, 0.02)
        sole += 0.6 * _noise(rng, len(t), 700, 1600, 200) * _pluck(t, 0.02, 0.03)
        heel[roll:] += 0.5 * sole[: len(t) - roll]
        return heel * _fade(len(t), 0.001)

    pitch = rng.uniform(110, 170)
    feet = itertools.cycle([foot(pitch), foot(pitch * rng.uniform(0.85, 0.95))])
    return _play(n, rng.uniform(0, 0.25), lambda: (next(feet) * rng.uniform(0.75, 1), period))


def _room(rng: Generator, x: np.ndarray) -> np.ndarray:
    """x (T,) in a small room: a few early reflections, then a short tail that dies away."""
    decay = rng.uniform(0.03, 0.09)
    delays = np.concatenate([rng.uniform(0.004, 0.03, 4), rng.uniform(0.03, 4 * decay, 24)])
    signs = np.where(rng.random(len(delays)) < 0.5, -1, 1)
    gains = rng.uniform(0.1, 0.3) * signs * np.exp(-delays / decay)
    out = x.copy()
    for delay, gain in zip((delays * SAMPLE_RATE).astype(int), gains, strict=True):
        if delay < len(x):
            out[delay:] += np.float32(gain) * x[: len(x) - delay]
    return out


def training_rng(i: int) -> Generator:
    """The i-th random stream for training."""
    return np.random.default_rng([0, i])


def heldout_rng(seed: int) -> Generator:
    """A random stream for evaluation; it differs from every training stream."""
    return np.random.default_rng([1, seed])


def clip(family: str, rng: Generator, seconds: float = 3.0) -> np.ndarray:
    """A clip (T,) of one family, RMS 0.1 where it sounds, peak at most 0.7.

    Half of the clips sound all the time, half only inside a window of 0.7 s to three quarters of
    the clip, so that there is something to learn from time spans. A third were made in a room, a
    fifth have a floor of noise.
    """
    make, n = FAMILIES[family].make, round(seconds * SAMPLE_RATE)
    x = np.zeros(n, np.float32)
    if rng.random() < 0.5:
        lead = int(rng.uniform(0, 0.5) * SAMPLE_RATE)  # cut off, so that x may begin mid-sound
        x[:] = make(rng, n + lead)[lead:]
    else:
        longest = 0.75 * seconds
        m = int(rng.uniform(min(0.7, longest), longest) * SAMPLE_RATE)
        start = int(rng.random() * (n - m))
        x[start : start + m] = make(rng, m) * _fade(m, 0.02)
    if rng.random() < 1 / 3:
        x = _room(rng, x)
    power = np.square(x[: n // 160 * 160]).reshape(-1, 160).mean(1)  # of 10 ms each
    rms = np.sqrt(power[power > 0.01 * power.max()].mean())
    if rng.random() < 0.2:
        x += rms * 10 ** rng.uniform(-2.5, -2) * _noise(rng, n, 100, 2000, 100)
    return x * np.float32(min(0.1 / rms, 0.7 / np.abs(x).max()))


def activity(x: np.ndarray, hop: int = HOP) -> np.ndarray:
    """Where x (T,) sounds: bool (T // hop,), frames within 30 dB of the loudest one.

    Silence of less than 0.3 s between two such frames counts as sounding, else a rhythm would
    fall apart into its beats.
    """
    power = np.square(x[: len(x) // hop * hop]).reshape(-1, hop).mean(1)
    active = power > max(1e-3 * power.max(), 1e-7)
    index = np.flatnonzero(active)
    for a, b in zip(index[:-1], index[1:], strict=True):
        if b - a <= 0.3 * SAMPLE_RATE / hop:
            active[a:b] = True
    return active


def spans(x: np.ndarray, hop: int = HOP) -> list[tuple[float, float]]:
    """The times (start, end) in seconds at which x (T,) sounds."""
    edges = np.flatnonzero(np.diff(activity(x, hop), prepend=False, append=False))
    seconds = (edges * hop / SAMPLE_RATE).tolist()
    return list(zip(seconds[::2], seconds[1::2], strict=True))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sounds of K different families at once: their names (K) and the sources (K, T)."""

    names: tuple[str, ...]
    sources: np.ndarray

    @property
    def mixture(self) -> np.ndarray:
        """The sum of the sources, (T,)."""
        return self.sources.sum(0)


def mixture(rng: Generator, seconds: float = 2.0, count: int | None = None) -> Mixture:
    """Two (60 %) or three clips of different families, at gains of -6 to 3 dB, signs at random."""
    count = count or (2 if rng.random() < 0.6 else 3)
    names = tuple(list(FAMILIES)[i] for i in np.argsort(rng.random(len(FAMILIES)))[:count])
    gains = 10 ** (rng.uniform(-6, 3, count) / 20) * np.where(rng.random(count) < 0.5, -1, 1)
    sources = np.stack([g * clip(name, rng, seconds) for name, g in zip(names, gains, strict=True)])
    sources *= min(1, 0.95 / np.abs(sources.sum(0)).max())  # so that the sum never clips
    return Mixture(names, sources.astype(np.float32))
