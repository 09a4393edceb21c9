"""The page to hear a run by, opened from the disk in Chromium: python -m pytest -m browser."""

import pytest
from test_compare import made, row, sound, tone

from benchmarks.evaluation import listen
from benchmarks.evaluation.runs import Task
from benchmarks.screenshots import browsing, chromium

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra too")
expect = sync_api.expect
expect.set_options(timeout=10_000)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt install chromium"),
]
NAMES = {"a </script> b": 3.0, "50 % #1 ü?": -1.0, "c": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "a # run"
    rows = [
        row(id, value, scores={"si_sdri": value, "clap": 0.1 * i}, mixture={"clap": 0.05})
        for i, (id, value) in enumerate(NAMES.items())
    ]
    rows += [row("d", status="error", error="<b>no</b> sound", scores={}), row("c", prompt="span")]
    names = list(NAMES)[:2]
    run = made(folder, [{**each, "id": each["id"].replace("/", "-")} for each in rows])
    for name in names:
        id, wave = name.replace("/", "-"), tone(440, 6)
        sound(run, id, mixture=wave, reference=0.5 * wave)
        sound(run, Task(id, "text", 0), target=0.25 * wave, residual=0 * wave)
    path = folder / "listen.html"
    path.write_text(listen.page(run), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture
def page(browser, place):
    """The page, which asks for files beside it only, and tells the console nothing."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(place)
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()
    home = place.rpartition("/")[0]
    assert not said and not [url for url in asked if not url.startswith((home, "data:"))]


def ids(page) -> list[str]:
    return page.locator(".item h2").all_text_contents()


def now(page) -> dict:
    return page.evaluate(
        "() => ({ stem: active.row.stems[active.at].title, at: active.sound.currentTime,"
        " playing: active.sounds.filter((sound) => !sound.paused).length,"
        " volumes: active.sounds.map((sound) => sound.volume) })"
    )


def test_sounds_play_and_another_stem_goes_on_at_the_same_place(page):
    assert page.locator("audio").count() == 0
    page.keyboard.press("j")
    page.keyboard.press("2")
    page.wait_for_function("active.sound.currentTime > 0.5")
    before = now(page)
    page.keyboard.press("3")
    page.wait_for_function(f"active.sound.currentTime > {before['at']} && active.playing")
    after = now(page)
    assert (before["stem"], after["stem"]) == ("Estimate", "Reference")
    assert before["at"] <= after["at"] < before["at"] + 1.5 and after["playing"] == 1
    page.keyboard.press(" ")
    stopped = now(page)
    page.wait_for_timeout(200)
    assert now(page)["at"] == stopped["at"] and stopped["playing"] == 0
    page.locator(".active .Mixture .track").click(position={"x": 200, "y": 10})
    page.wait_for_function("active.playing && active.row.stems[active.at].title === 'Mixture'")
    page.keyboard.press("j")
    page.wait_for_function("active.playing && active.sound.currentTime > 0.1")
    assert now(page)["stem"] == "Mixture" and page.locator("audio").count() == 4


def test_levels_are_matched_but_not_to_silence(page):
    page.keyboard.press("j")
    mixture, estimate, reference, silence = now(page)["volumes"]
    assert [mixture, reference] == pytest.approx([0.25, 0.5], rel=0.02)
    assert estimate == silence == 1
    page.uncheck("#level")
    assert set(now(page)["volumes"]) == {1}


def test_items_are_sorted_filtered_and_failures_named(page):
    good, bad = (name.replace("/", "-") for name in list(NAMES)[:2])
    assert ids(page)[:3] == [bad, "c", good]  # the worst first; what has no score comes last
    assert set(ids(page)[3:]) == {"c", "d"}
    page.select_option("#order", "-1")
    assert ids(page)[0] == good
    page.select_option("#metric", "clap")
    page.select_option("#order", "1")
    assert ids(page)[:2] == [good, bad]
    page.select_option("#prompt", "span")
    assert ids(page) == ["c"]
    page.select_option("#prompt", "")
    expect(page.locator(".item .error")).to_have_text("Failed: <b>no</b> sound")
    expect(page.locator("#count")).to_have_text("5 of 5 shown, 1 of them failed or missing")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_reader_of_screens_finds_all(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.keyboard.press("j")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]})
    assert not [(each["id"], each["nodes"][0]["html"]) for each in found.response["violations"]]


def test_it_fits_a_narrow_window(page):
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
