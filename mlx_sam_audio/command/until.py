"""Stands in for what the engine and media are getting."""

from ..media import containers, sound_files


class One:
    def __init__(self, run):
        self.run, self.channels, self.shared = run, 1, False
        self.source = run.items[0].mixture.source

    def __getattr__(self, name):
        return getattr(self.run, name)

    def stems(self):
        return ((chunk,) for chunk in self.run)

    @property
    def stem_facts(self):
        return [self.run.facts]


def prepare(model, audio, descriptions, *, spans, videos, settings, **more):
    if hasattr(model, "prepare_stems"):
        return model.prepare_stems(
            audio, descriptions, spans=spans, videos=videos, settings=settings, **more
        )
    (d,), (s,), (v,) = descriptions, spans, videos
    return One(model.prepare(audio, d, spans=s, video=v, settings=settings, **more))


def settings(given, residual, stereo):
    from dataclasses import replace

    if hasattr(given, "stereo"):
        return replace(given, residual=residual, stereo=stereo)
    return replace(given, residual={"share": "subtract", "alone": "model"}.get(residual, residual))


class Writer(sound_files.Writer):
    def __init__(self, part, path, rate, samples, channels=1, bits=None, tags=()):
        super().__init__(part, path, rate, samples)


def tags(path):
    return containers.tags(path) if hasattr(containers, "tags") else {}
