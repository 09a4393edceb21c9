import numpy as np
import pytest

from mlx_sam_audio import SAMAudioError, Span
from mlx_sam_audio.prompts import anchors, check_prompt, clock


def test_spans_cover_the_frames_of_the_reference():
    """ceil(start * rate / hop) up to ceil(end * rate / hop); the later span wins."""
    row = anchors([Span("+", 0.1, 0.5), Span("-", 0.45, 0.6)], samples=95, sample_rate=100, hop=10)
    assert np.array(row).tolist() == [0, 1, 1, 1, 1, 2, 0, 0, 0, 0]


def test_a_span_may_end_with_the_audio():
    assert np.array(anchors([Span("-", 0, 0.95)], 95, 100, 10)).tolist() == [2] * 10


@pytest.mark.parametrize(
    "sign, start, end, message",
    [
        ("*", 0, 1, 'the sign "\\+" or "-"'),
        ("+", 1, 1, "before its end"),
        ("+", 2, 1, "before its end"),
        ("+", -1, 1, "at 0 or later"),
        ("+", 0, float("inf"), "finite"),
    ],
)
def test_bad_spans(sign, start, end, message):
    with pytest.raises(SAMAudioError, match=message):
        Span(sign, start, end)


def test_a_span_outside_the_audio():
    with pytest.raises(SAMAudioError, match="ends after the audio, which lasts 0.950 s"):
        anchors([Span("+", 0.5, 1.0)], 95, 100, 10)


def test_a_span_between_two_frames():
    with pytest.raises(SAMAudioError, match="lies between two frames, which are 100 ms apart"):
        anchors([Span("+", 0.51, 0.59)], 95, 100, 10)


def test_spans_are_parsed():
    assert Span.parse("-6.3:7") == Span("-", 6.3, 7.0)
    assert Span.parse(str(Span("+", 0.25, 1.5))) == Span("+", 0.25, 1.5)
    assert Span.parse(str(Span("-", 1e-05, 7e5))) == Span("-", 1e-05, 7e5)


@pytest.mark.parametrize(
    "text, span",
    [
        ("+1:23-1:31", Span("+", 83, 91)),
        ("+83.5:91", Span("+", 83.5, 91)),
        ("-5-9.5", Span("-", 5, 9.5)),
        ("+0:01:02.5-0:01:04", Span("+", 62.5, 64)),
        ("-59.5-1:00:00", Span("-", 59.5, 3600)),
    ],
)
def test_times_are_read_as_clocks_show_them(text, span):
    assert Span.parse(text) == span


def test_times_are_told_as_people_write_them():
    assert [clock(*times) for times in ((45, 46), (0.25, 59.5), (45, 61.5), (83, 7384.0004))] == [
        "45-46 s",
        "0.25-59.5 s",
        "0:45-1:01.5",
        "1:23-2:03:04",
    ]


@pytest.mark.parametrize(
    "text", ["6.3:7", "+a:b", "", "+1:2:3", "+1:75-2:00", "+-5", "+1:2:3:4-9", "1:23-1:31"]
)
def test_unreadable_spans(text):
    with pytest.raises(SAMAudioError):
        Span.parse(text)


@pytest.mark.parametrize("prompt", [("", ()), (" \n", ()), (None, ()), ("dog", [("+", 1, 2)])])
def test_bad_prompts(prompt):
    with pytest.raises(SAMAudioError):
        check_prompt(*prompt)
