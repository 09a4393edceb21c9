"""Stands in for what the engine and media are getting."""

from dataclasses import replace


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
        share = settings.shares or len(descriptions) > 1
        return model.prepare_stems(
            audio, descriptions, spans=spans, videos=videos, share=share, settings=settings, **more
        )
    (d,), (s,), (v,) = descriptions, spans, videos
    return One(model.prepare(audio, d, spans=s, video=v, settings=settings, **more))


def settings(given, residual, stereo):
    if hasattr(given, "stereo"):
        return replace(given, residual=residual, stereo=stereo)
    return replace(given, residual={"share": "subtract", "alone": "model"}.get(residual, residual))
