"""The public face of a model: every way to separate, all of them by `engine.run`."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

from . import kinds
from .calls import alone, public
from .engine.item import Cancel, Control, Item
from .engine.mixture import Audio, Hearing, Mixture, encoded, is_audio
from .engine.networks import Networks
from .engine.predict import part_of, predicted
from .engine.progress import Tell
from .engine.run import Run
from .engine.separation import Chunk, Separation, Stems
from .engine.windows import window_frames
from .errors import SAMAudioError
from .kinds import Bytes, Flag, Hertz, Kind, Name, Seconds, Text, Texts, Word
from .loading import load
from .loading.store import resolve
from .media.video import MaskedVideo
from .prompts import Span, check_prompt
from .settings import LONG, Settings
from .span_predictor import SpanPredictor

P = ParamSpec("P")
R = TypeVar("R")
Spans = Annotated[Sequence[Span], Kind(kinds.is_list(kinds.anything), "a list of spans")]
Video = Annotated[MaskedVideo, Kind(kinds.one_of(MaskedVideo), "a MaskedVideo")]
are_videos = kinds.is_list(kinds.one_of(MaskedVideo, type(None)))
Videos = Annotated[Sequence[MaskedVideo | None], Kind(are_videos, "a list of MaskedVideo or None")]
are_audios = kinds.is_list(is_audio)
Audios = Annotated[Sequence[Audio], Kind(are_audios, "a list of paths or arrays of samples")]
are_lists = kinds.is_list(kinds.anything)
Lists = Annotated[Sequence[Sequence[Span]], Kind(are_lists, "a list of lists of spans")]
Predictor = Annotated[
    bool | Callable[..., Any],
    Kind(lambda value: value is True or callable(value), "True or a span predictor"),
]
Given = Annotated[Settings, Kind(kinds.one_of(Settings), "Settings")]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call(Control, Settings):
    """What every separation takes: `Settings`, by name or in one. sample_rate: of samples in an
    array, if not the model's."""

    settings: Given | None = None
    sample_rate: Hertz | None = None

    def only_settings(self) -> Settings:
        return Settings(**{one.name: getattr(self, one.name) for one in fields(Settings)})


@dataclass(frozen=True, eq=False)
class Request(Call):
    """One recording and its prompt."""

    audio: Audio
    description: Text = ""
    _: KW_ONLY
    spans: Spans | None = ()
    video: Video | None = None

    def items(self) -> list[Item]:
        spans = () if self.spans is None else self.spans
        return [Item(self.audio, self.description, spans, self.video, self.sample_rate)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Several(Call):
    """Several prompts, each with its spans and video."""

    spans: Lists | None = None
    videos: Videos | None = None

    def each(self, audios: Sequence[Audio], descriptions: Sequence[str]) -> list[Item]:
        count = len(descriptions)
        spans = [()] * count if self.spans is None else self.spans
        videos = [None] * count if self.videos is None else self.videos
        if not count == len(audios) == len(spans) == len(videos) or not count:
            raise SAMAudioError(
                f"there must be as many descriptions ({count}) as audios ({len(audios)}), lists of "
                f"spans ({len(spans)}) and videos ({len(videos)}), at least one"
            )
        return list(map(Item, audios, descriptions, spans, videos, [self.sample_rate] * count))


@dataclass(frozen=True, eq=False)
class StemsRequest(Several):
    """One recording and several prompts."""

    audio: Audio
    descriptions: Texts
    _: KW_ONLY
    share: Flag = True

    def items(self) -> list[Item]:
        given = self.descriptions
        texts = [given] if isinstance(given, str) else given
        return self.each([self.audio] * len(texts), texts)


@dataclass(frozen=True, eq=False)
class BatchRequest(Several):
    """Several recordings and their prompts."""

    audios: Audios
    descriptions: Texts

    def items(self) -> list[Item]:
        return self.each(self.audios, self.descriptions)


def takes(
    request: Callable[P, Call],
) -> Callable[[Callable[[Any, Any], R]], Callable[Concatenate[Any, P], R]]:
    """Gives a method the arguments of a request, which is what it gets. Those that are named in a
    call win over its `settings=`. Only one thread at a time calls a model."""
    signature = inspect.signature(request)

    def decorate(method: Callable[[Any, Any], R]) -> Callable[Concatenate[Any, P], R]:
        @functools.wraps(method)
        def call(self: Any, *arguments: P.args, **keywords: P.kwargs) -> R:
            given = signature.bind(*arguments, **keywords).arguments
            kinds.check(given, request)
            settings = given.get("settings")
            asked = request(**{**(vars(settings) if settings else {}), **given})
            with alone(self, asked.cancel):
                return method(self, asked)

        own = inspect.signature(method)
        parameters = [own.parameters["self"], *signature.parameters.values()]
        call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(method)}\n\n{inspect.getdoc(Settings)}"
        return call

    return decorate


class SAMAudio(Networks):
    """A loaded model, for any thread, but one call at a time. `separate` is a pure function of its
    arguments.

    All methods take a path, samples (T,) or (channels, T) at `sample_rate`, or a `Mixture` as
    audio; spans: where the sound is or is not; video: where the thing is seen that makes it. They
    take every setting by its name, or all as `settings=`, of which those named win. progress: a
    function of a `Progress`; cancel: a function that is asked after every step, and ends the call
    by `Cancelled` when it returns True. resume: a file in which the solver's state is kept, gone on
    from if it is there (but for restart=True), and removed at the end. They raise SAMAudioError.
    """

    @classmethod
    def from_pretrained(
        cls, name: Name, revision: str | None = None, verify: bool = False
    ) -> "SAMAudio":
        """Load a converted model: a folder, a name in the local store, or a hub repo.

        verify: compare every byte with what the conversion wrote, as the first loading does.
        """
        folder = resolve(name, revision)
        return cls(*load.load(folder, verify), folder)

    @cached_property
    def predictor(self) -> SpanPredictor:
        """The `SpanPredictor`, read from disk when spans are first predicted."""
        return SpanPredictor.from_pretrained()

    @takes(Request)
    def separate(self, request: Request) -> Separation:
        """Split audio into the described sound and the rest, in one piece unless a window is given,
        as the reference does."""
        return self._run(request).results()[0]

    @takes(Request)
    def separate_long(self, request: Request) -> Separation:
        """The same for any length: in windows of 10 s that are one piece (see `engine.solve`)."""
        return self._run(request, LONG).results()[0]

    @takes(Request)
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield consecutive chunks (target, residual, start, sample_rate) as they become final.

        The first one comes after about one window's work, unless spans are predicted: then the
        whole recording is encoded before.
        """
        return iter(self._run(request, LONG, streaming=True))

    @takes(Request)
    def prepare(self, request: Request) -> Run:
        """A run of `separate_long`, checked and planned; iterated, it gives pieces in bounded
        memory, and then its `facts`."""
        return self._run(request, LONG)

    @takes(StemsRequest)
    def stems(self, request: StemsRequest) -> Stems:
        """Separate several sounds from one recording of any length, at once. They are shares of it,
        and so is the rest, which is the residual of each: all add up to the recording. share=False
        gives each prompt's own target and residual, as `separate_long` does."""
        return Stems(self._stems(request).results())

    @takes(StemsRequest)
    def prepare_stems(self, request: StemsRequest) -> Run:
        """A run of `stems`, checked and planned: its `stems()` give a piece of each prompt's stem
        in bounded memory, and then there are its `stem_facts`."""
        return self._stems(request)

    def _stems(self, request: StemsRequest) -> Run:
        wanted = request.residual
        if request.share:
            if wanted not in ("model", "share"):
                raise SAMAudioError(
                    "stems are shares of the recording, which add up to it already: leave out "
                    f'residual="{wanted}", or give share=False'
                )
            wanted = "share"
        if not request.share and (request.stereo != "mono" or wanted == "share"):
            raise SAMAudioError("the model's own stems are mono: leave out share=False, or stereo")
        return self._run(replace(request, residual=wanted), LONG)

    @takes(BatchRequest)
    def separate_batch(self, request: BatchRequest) -> list[Separation]:
        """Separate B items as the reference's padded batch does: a shorter clip's result depends
        on how far it is padded. Item i is drawn from seed + i. noise is (1 or B, N, 2C), message
        (2B, 16): target then residual of each item."""
        return self._run(request, batch=True).results()

    def _run(self, request: Any, window: float | None = None, **kind: bool) -> Run:
        settings = request.only_settings()
        if settings.window is None:
            settings = replace(settings, window=window)
        return Run(self, request.items(), settings, request, **kind)

    @public
    def encode(
        self,
        audio: Audio,
        *,
        stereo: Word = Settings.stereo,
        sample_rate: Hertz | None = None,
        max_memory: Bytes | None = None,
        progress: Tell | None = None,
        cancel: Cancel | None = None,
    ) -> Mixture:
        """Encode audio once, for any number of prompts. stereo: as in `Settings`, and for those
        alone that have the same. sample_rate: of samples in an array, if not the model's.
        max_memory: bytes that it is cut to fit."""
        hearing = Hearing(Settings(stereo=stereo).stereo, sample_rate)
        return encoded(self, audio, hearing, max_memory, progress)

    @public
    def predict_spans(
        self,
        audio: Audio,
        description: Text,
        predictor: Predictor = True,
        *,
        window: Seconds = LONG,
        overlap: Seconds = Settings.overlap,
        max_memory: Bytes | None = None,
        progress: Tell | None = None,
        cancel: Cancel | None = None,
    ) -> tuple[Span, ...]:
        """The times at which the described sound occurs, in audio of any length.

        predictor: as `predict_spans` in `separate`. window, overlap: seconds heard at once, and
        shared by neighbours.
        """
        check_prompt(description, ())
        window_frames(self, window, overlap)
        finder = self.predictor if predictor is True else predictor
        hearing = Hearing(audio.stereo if isinstance(audio, Mixture) else "mono")
        mixture = encoded(self, audio, hearing, max_memory, progress, part_of(finder, "network"))
        heard = [mixture[:]], [mixture.samples], [description]
        return predicted(self, finder, *heard, window=window, overlap=overlap)[0]
