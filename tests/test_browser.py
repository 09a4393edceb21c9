"""The playground in a real browser, Chromium without a window, with a real server and the demo
model: python -m pytest -m browser."""

import base64
import contextlib
import json
import re
import time
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from clips import RATE, beeps, clip

from benchmarks.screenshots import browsing, chromium, playground

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra too")
expect = sync_api.expect
expect.set_options(timeout=20_000)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt install chromium"),
]
ENDS = ("done", "failed", "cancelled")


class Server:
    """A playground of its own. Whatever a test asks of it directly is what a page would see."""

    def __init__(self, origin: str, token: str):
        self.origin, self.token = origin, token
        self.url = f"{origin}/#token={token}" if token else origin

    def ask(self, path: str, method: str = "GET", body=None):
        """JSON for JSON; bytes for bytes."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        with urlopen(Request(self.origin + path, data, headers, method=method)) as answer:
            found = answer.read()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return json.loads(found) if is_json else found

    def upload(self, path: Path) -> dict:
        return self.ask(f"/v1/files?name={path.name}", "POST", path.read_bytes())

    def start(self, file: dict, description: str = "beep", **request) -> dict:
        given = {"input": {"file": file["id"]}, "description": description, **request}
        return self.ask("/v1/jobs", "POST", given)

    def finished(self, job: dict) -> dict:
        for _ in range(600):
            job = self.ask(f"/v1/jobs/{job['id']}")
            if job["status"] in ENDS:
                return job
            time.sleep(0.1)
        raise AssertionError("a job goes on and on")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with playground(tmp_path_factory.mktemp("home")) as found:
        yield Server(*found)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sounds") / "beeps.wav"
    soundfile.write(path, beeps(1, [0.2, 0.6]), RATE)
    return path


@pytest.fixture(scope="module")
def long_sound(sound) -> Path:
    """Which takes some seconds."""
    soundfile.write(sound.with_name("long.wav"), beeps(3, [1, 2]), RATE)
    return sound.with_name("long.wav")


@pytest.fixture(scope="module")
def take(server, sound) -> dict:
    """A job that is done."""
    return server.finished(server.start(server.upload(sound), steps=2))


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture
def context(browser, server):
    """Pages that talk to the server only, and whose consoles tell nothing but refusals."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(20_000)
    outside, said = [], []

    def gate(route):
        local = route.request.url.startswith((server.origin, "data:", "blob:"))
        if not local:
            outside.append(route.request.url)
        route.continue_() if local else route.abort()

    context.route("**", gate)
    context.on("console", lambda message: said.append(message.text))
    context.on("weberror", lambda error: said.append(str(error.error)))
    yield context
    context.close()
    assert not outside
    assert not [text for text in said if "the server responded with a status of 400" not in text]


@pytest.fixture
def page(context, server):
    return opened(context, server)


def opened(context, server, place: str = ""):
    """A page, when it is ready. place: what it shows, as its address says it."""
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("body[data-ready]")
    if place:
        page.evaluate("place => { location.hash = place }", place)
        page.reload()
        page.wait_for_selector("body[data-ready]")
    return page


def drawn(page, count: int) -> None:
    """Waits until so many lanes show their waveforms."""
    expect(page.locator(".lane")).to_have_count(count)
    page.wait_for_function(
        "async () => (await import('/web/main.js')).lanes.list.every("
        "lane => lane.wave.getDecodedData())"
    )


def drop(page, path: Path) -> None:
    data = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([name, data]) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name));
          for (const type of ["dragenter", "dragover", "drop"])
            document.body.dispatchEvent(
              new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [path.name, data],
    )


def drag(page, start: float, end: float, key: str | None = None) -> None:
    """Over the original, from and to a part of its width."""
    box = page.locator(".lane.original .track").bounding_box()
    x, y = (lambda part: box["x"] + part * box["width"]), box["y"] + box["height"] / 2
    with holding(page, key):
        page.mouse.move(x(start), y)
        page.mouse.down()
        page.mouse.move(x((start + end) / 2), y, steps=4)
        page.mouse.move(x(end), y, steps=4)
        page.mouse.up()


@contextlib.contextmanager
def holding(page, key: str | None):
    if key:
        page.keyboard.down(key)
    yield
    if key:
        page.keyboard.up(key)


def rows(page) -> list[list]:
    """What the table of spans says."""
    return page.eval_on_selector_all(
        "#spans tr",
        """rows => rows.map((row) => [
          row.querySelector("[name=sign]").className.includes("plus") ? "+" : "-",
          Number(row.querySelector("[name=start]").value),
          Number(row.querySelector("[name=end]").value)])""",
    )


def regions(page) -> list[list]:
    """What the waveform shows: sign, and the seconds that the places stand for."""
    return page.evaluate(
        """async () => {
          const { lanes } = await import("/web/main.js");
          const root = lanes.list[0].element.querySelector(".wave div").shadowRoot;
          return [...root.querySelectorAll("[part~=region]")].map(({ part, style }) => [
            part.contains("plus") ? "+" : "-",
            lanes.from + parseFloat(style.left) / 100 * (lanes.to - lanes.from),
            lanes.from + (1 - parseFloat(style.right) / 100) * (lanes.to - lanes.from)]);
        }"""
    )


def asked(page, act) -> dict:
    """The request that comes of it, which the server never gets: it is refused."""
    body = {"error": {"message": "not now", "param": "spans"}}
    refused = []

    def refuse(route):  # stays: Playwright would lose requests on their way if it went
        if refused:
            return route.fallback()
        refused.append(route)
        route.fulfill(status=400, json=body)

    page.route("**/v1/jobs", refuse)
    with page.expect_request(lambda request: request.method == "POST") as found:
        act()
    return found.value.post_data_json


def quick(request: dict) -> dict:
    """The same, in one step."""
    return {name: value for name, value in request.items() if name != "quality"} | {"steps": 1}


def gains(page) -> list[float]:
    """Of the lanes, when their ramps of 10 ms are over."""
    page.wait_for_timeout(80)
    return page.evaluate(
        """async () => [...(await import("/web/main.js")).player.tracks.values()].map(
          (track) => Math.round(100 * (track.gain ? track.gain.gain.value : track.level)) / 100)"""
    )


def matched(server, take: dict) -> float:
    """The gain, up to 16, by which the sound is as loud as the original, unless it would clip."""
    mixture, target = (
        np.frombuffer(server.ask(take["stems"][name]["url"] + "/pcm"), np.float32)
        for name in ("mixture", "target")
    )
    return min(16, np.std(mixture) / np.std(target), max(1, 1 / np.abs(target).max()))


def test_a_file_is_dropped_and_separated(page, server, tmp_path):
    sound = tmp_path / "beeps.wav"  # at a rate at which it lasts some microseconds less
    soundfile.write(sound, beeps(44_102 / RATE, [0.2, 0.6]), 44_100)
    drop(page, sound)
    drawn(page, 1)
    expect(page.locator("#file-name")).to_have_text("beeps.wav")
    page.click("button.chip:text-is('beep')")
    page.click("text=Fast")
    page.focus("#prompt-0")
    page.keyboard.press("Enter")
    drawn(page, 3)
    expect(page.locator("#scroll")).to_be_hidden()
    names = page.locator(".lane-name span").all_inner_texts()
    assert names == ["Original", "Isolated", "Without"]
    job = server.ask("/v1/jobs")["data"][0]
    assert job["request"]["steps"] == 8 and job["request"]["description"] == "beep"
    sounds = []
    for stem in ("mixture", "target", "residual"):
        pcm = server.ask(f"/v1/jobs/{job['id']}/stems/{stem}/pcm")
        sounds.append(np.frombuffer(pcm, np.float32))
    assert {len(sound) for sound in sounds} == {16_001}
    assert page.get_attribute("#playhead", "aria-valuemax") == "1.00"
    page.click(".lane.isolated summary")
    with page.expect_download() as saved:
        page.click(".lane.isolated >> text=Download wav")
    saved.value.save_as(tmp_path / "target.wav")
    assert np.array_equal(soundfile.read(tmp_path / "target.wav", dtype="float32")[0], sounds[1])


def test_what_is_no_sound_is_told_below_the_place_for_it(page, tmp_path):
    (tmp_path / "words.txt").write_text("words")
    page.set_input_files("#file", tmp_path / "words.txt")
    error = page.locator("[data-param~=file] .error")
    expect(error).to_contain_text("words.txt")
    place, told = page.locator("#drop").bounding_box(), error.bounding_box()
    assert told["y"] >= place["y"] + place["height"] and told["width"] == place["width"]


def test_the_file_that_was_chosen_last_is_shown(page, long_sound, sound):
    page.route("**/v1/files?name=long.wav", lambda route: None)  # on and on
    words = page.locator("#upload-words")
    page.set_input_files("#file", long_sound)
    expect(words).to_have_text("sending long.wav\u2026")
    with page.expect_event("requestfailed") as dropped:
        page.set_input_files("#file", sound)
    assert dropped.value.url.endswith("name=long.wav")
    drawn(page, 1)
    page.set_input_files("#file", long_sound)
    expect(words).to_be_visible()
    with page.expect_event("requestfailed"):
        page.click("#cancel-upload")
    expect(words).to_be_hidden()
    expect(page.locator("#choose")).to_be_focused()
    expect(page.locator("#file-name")).to_have_text("beeps.wav")


def test_a_drawn_span_is_its_row_is_the_request(page, server, sound):
    page.set_input_files("#file", sound)
    drawn(page, 1)
    drag(page, 0.1, 0.35)
    drag(page, 0.5, 0.75, "Alt")
    page.wait_for_timeout(100)
    spans = rows(page)
    assert [sign for sign, *_ in spans] == ["+", "-"]
    assert np.allclose([times for _, *times in spans], [[0.1, 0.35], [0.5, 0.75]], atol=0.005)
    page.fill("#spans tr:first-child [name=end]", "0.42")
    page.keyboard.press("Tab")
    page.click("#spans tr:first-child [name=sign]")
    spans[0] = ["-", spans[0][1], 0.42]
    assert rows(page) == spans
    assert [sign for sign, *_ in regions(page)] == ["-", "-"]
    assert np.allclose([at for _, *at in regions(page)], [at for _, *at in spans], atol=1e-4)
    drag(page, 0.6, 0.7)  # which moves the second one
    page.wait_for_timeout(100)
    assert np.allclose(rows(page)[1][1:], [0.6, 0.85], atol=0.01)
    page.fill("#prompt-0", "beep")
    request = asked(page, lambda: page.click("#separate"))
    assert request["spans"] == rows(page)
    expect(page.locator(".spans > .error")).to_have_text("not now")
    page.click("#zoom-in")
    page.click("#spans tr:first-child [aria-label^=Remove]")
    assert len(rows(page)) == 1
    for name, typed, told, span in (
        ("start", "0.9", "Start and end swapped.", [0.85, 0.9]),
        ("end", "50", "Moved inside the recording.", [0.85, 1]),
        ("start", "", "A number is needed: it is as before.", [0.85, 1]),
        ("start", "0.99", "Made 0.05 s long, the shortest.", [0.95, 1]),
        ("start", "0.5", "", [0.5, 1]),
    ):
        page.fill(f"#spans [name={name}]", typed)
        page.keyboard.press("Tab")
        expect(page.locator("#spans-told")).to_have_text(told)
        assert np.allclose(rows(page)[0][1:], span, atol=0.01)


def test_labels_are_read(page, sound, tmp_path):
    (tmp_path / "labels.txt").write_text("0.1\t0.4\ta beep\n0.5\t0.75\t-a beep\n")
    page.set_input_files("#file", sound)
    drawn(page, 1)
    page.set_input_files("#labels-file", tmp_path / "labels.txt")
    page.wait_for_selector("#spans tr")
    assert rows(page) == [["+", 0.1, 0.4], ["-", 0.5, 0.75]]


def test_keys(context, server, take):
    page = opened(context, server, f"take={take['id']}")
    drawn(page, 3)
    press = page.keyboard.press
    assert gains(page) == [0, 1, 0]
    press("End")
    expect(page.locator("#time")).to_have_text("0:01.0")
    press("Home")
    press("l")
    press("Space")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    for key, expected in {"1": [1, 0, 0], "3": [0, 0, 1], "2": [0, 1, 0], "0": [0, 1, 1]}.items():
        press(key)
        assert gains(page) == expected
    press("2")
    press("s")
    assert gains(page) == [0, 1, 1]
    press("2")
    press("g")
    assert np.isclose(gains(page)[1], matched(server, take), rtol=0.1)
    press("g")
    page.wait_for_function(
        "async () => { const { player } = await import('/web/main.js');"
        " return player.context.currentTime > 1.2 && player.time > 0.1; }"
    )  # over the end of the loop
    press("Space")
    press("Home")
    press("ArrowRight")
    press("Shift+ArrowLeft")
    expect(page.locator("#playhead")).to_have_attribute("aria-valuetext", "0:00 of 0:01")
    press("[")
    assert rows(page) == [["+", 0, 1]]
    width = page.locator("#ruler").bounding_box()["width"]
    page.click(".lane.rest .track", position={"x": width / 2, "y": 30})
    press("]")
    press("-")
    sign, start, end = rows(page)[0]
    assert (sign, start) == ("-", 0) and abs(end - 0.5) < 0.01
    press("Delete")
    assert not rows(page)
    press("z")
    expect(page.locator("#scroll")).to_be_visible()
    press("Shift+Z")
    expect(page.locator("#scroll")).to_be_hidden()
    with page.expect_response("**/spectrogram*from=0*") as first:
        press("v")
    assert float(first.value.headers["x-top"]) < 0 and "top=" in first.value.url
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.focus("#prompt-0")
    press("m")
    assert page.input_value("#prompt-0").endswith("m"), "keys write where one writes"


SCHEDULED = """async ([file, seconds, start, loop]) => {
  const { Player } = await import("/web/player.js");
  const context = new OfflineAudioContext(1, seconds * file.sample_rate, file.sample_rate);
  const player = new Player(() => context);
  const url = `/v1/files/${file.id}`;
  player.load([{ id: "a", url }, { id: "b", url }], file.sample_rate, file.seconds);
  player.setLevel("b", 0);
  if (loop) player.loop = loop;
  player.seek(start);
  await player.play();
  for (let tries = 0; tries < 100 && !player.tracks.get("a").pieces.size; tries++)
    await new Promise((go) => setTimeout(go, 50));
  await new Promise((go) => setTimeout(go, 500));
  context.suspend(0.5).then(() => {
    player.setLevel("a", 0); // A/B, and less of it
    player.setLevel("b", 0.5);
    context.resume();
  });
  const rendered = await context.startRendering();
  player.pause();
  return [...rendered.getChannelData(0)];
}"""


@pytest.mark.parametrize(("start", "loop"), [(6.7, None), (7.9, [7.9, 8.1])])
def test_pieces_join_without_a_gap_and_lanes_change_without_a_click(
    page, server, tmp_path, start, loop
):
    rate = 8000
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 9 * rate).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, rate, "FLOAT")
    file = server.upload(tmp_path / "noise.wav")
    played = np.array(page.evaluate(SCHEDULED, [file, 2, start, loop]), np.float32)
    first = round(start * rate)
    wanted = noise[first:]
    if loop:
        wanted = np.tile(noise[first : round(loop[1] * rate)], 10)
    begins = np.flatnonzero(played)[0]
    assert begins < 0.1 * rate
    got = played[begins:][: len(wanted)]
    wanted = wanted[: len(got)]
    changed = -(-rate // 2 // 128) * 128  # half a second, in the browser's blocks
    ramp = np.clip((np.arange(len(played)) - changed) / (0.01 * rate), 0, 1)[begins:]
    assert np.allclose(got, wanted * (1 - 0.5 * ramp[: len(got)]), atol=1e-4)


def test_cancel_stops_what_runs(page, server, long_sound):
    page.set_input_files("#file", long_sound)
    drawn(page, 1)
    page.fill("#prompt-0", "beep")
    page.click("text=Best")
    page.click("#separate")
    expect(page.locator("#running-stage")).to_contain_text(re.compile("separating [1-9]"))
    job = next(job for job in server.ask("/v1/jobs")["data"] if job["status"] == "running")
    page.click("#cancel")
    expect(page.locator("#running")).to_be_hidden()
    done = server.finished(job)
    assert done["status"] == "cancelled" and not done["stems"]
    expect(page.locator(f"[data-job={job['id']}]")).to_contain_text("cancelled")
    assert page.locator(".lane").count() == 1
    page.click("#clear-takes")
    expect(page.locator(".take:is(.cancelled, .failed)")).to_have_count(0)
    expect(page.locator("#clear-takes")).to_be_hidden()


def test_a_reload_keeps_takes_and_what_runs(page, server, long_sound, take):
    spans = [["+", 0.2, 0.4], ["-", 0.5, 1.0]]
    running = server.start(server.upload(long_sound), steps=24, seed=5, spans=spans)
    page.reload()
    expect(page.locator("#running")).to_be_visible()
    page.reload()
    expect(page.locator(f"[data-job={take['id']}]")).to_be_visible()
    expect(page.locator("#prompt-0")).to_have_value("beep")
    assert rows(page) == spans
    drawn(page, 3)  # when it is done
    assert f"take={running['id']}" in page.url
    page.reload()
    drawn(page, 3)
    assert rows(page) == spans
    page.locator(f"[data-job={running['id']}] [aria-label^=Repeat]").click()
    expect(page.locator("#seed")).to_have_value("5")
    request = asked(page, lambda: page.click("#separate"))
    assert request["steps"] == 24, "settings without a field come back, too"
    assert request["input"] == running["request"]["input"] and "quality" not in request


def test_a_lane_becomes_the_next_input(context, server, take):
    page = opened(context, server, f"take={take['id']}")
    drawn(page, 3)
    page.click(".lane.rest summary")
    page.click(".lane.rest >> text=Use as the next input")
    drawn(page, 1)
    expect(page.locator("#file-name")).to_have_text("Without of \u201cbeep\u201d")
    page.fill("#prompt-0", "bell")
    request = asked(page, lambda: page.keyboard.press("Enter"))
    assert request["input"] == {"job": take["id"], "stem": "residual"}
    assert request["description"] == "bell"
    link = server.finished(server.ask("/v1/jobs", "POST", quick(request)))
    page = opened(context, server, f"take={link['id']}")
    drawn(page, 3)
    assert link["request"]["residual"] == "subtract"


def test_a_box_on_a_video(page, server, tmp_path):
    models = server.ask("/v1/models")
    models["data"][0]["vision"] = True  # as if it were another one
    film = clip(tmp_path / "film.mp4", 25, size=(320, 240), pix_fmt="yuv420p", sound=beeps(1, [0]))
    page.set_input_files("#file", film)
    drawn(page, 1)
    expect(page.locator("#hears-only")).to_be_visible()
    expect(page.locator("#box, #box-canvas").filter(visible=True)).to_have_count(0)
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.reload()
    drawn(page, 1)
    expect(page.locator("#hears-only")).to_be_hidden()
    page.wait_for_function("() => document.getElementById('movie').readyState >= 2")
    frame = page.locator("#box-canvas").bounding_box()
    scale = frame["width"] / 320
    page.mouse.move(frame["x"] + 40 * scale, frame["y"] + 30 * scale)
    page.mouse.down()
    page.mouse.move(frame["x"] + 200 * scale, frame["y"] + 150 * scale, steps=5)
    page.mouse.up()
    box = [int(page.input_value(f"#box-{i}")) for i in range(4)]
    assert np.allclose(box, [40, 30, 200, 150], atol=1)
    page.fill("#box-2", "180")
    page.fill("#prompt-0", "beep")
    with page.expect_request(lambda request: request.method == "POST") as found:
        page.click("#separate")
    assert found.value.post_data_json["box"] == [*box[:2], 180, box[3]]
    expect(page.locator("#video > .error")).to_contain_text("no vision encoder")
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    page.wait_for_function("() => document.getElementById('movie').currentTime > 0.8")


def test_pictures_of_a_film_that_the_browser_cannot_play(page, tmp_path):
    film = clip(tmp_path / "film.mkv", 10, 10, codec="ffv1", pix_fmt="yuv420p", sound=beeps(1, [0]))
    page.set_input_files("#file", film)
    drawn(page, 1)
    page.wait_for_function("() => document.getElementById('frame').naturalWidth == 64")
    expect(page.locator("#frame")).to_be_visible()


def test_several_prompts(page, server, sound):
    page.set_input_files("#file", sound)
    drawn(page, 1)
    page.fill("#prompt-0", "beep")
    page.click("#add-prompt")
    page.keyboard.type("bell")
    page.click("#add-prompt")
    page.click("#separate")
    empty = page.locator(".prompt:has(#prompt-2)")
    expect(empty.locator(".error")).to_have_text("Say what it is, or remove it.")
    expect(page.locator("#prompt-2")).to_be_focused()
    empty.locator("button").click()
    page.click("#add-span")
    page.select_option("#spans [name=sound]", "1")
    request = asked(page, lambda: page.click("#separate"))
    assert request["descriptions"] == ["beep", "bell"] and "description" not in request
    assert request["spans"] == [[], [["+", 0, 1]]]
    job = server.finished(server.ask("/v1/jobs", "POST", quick(request)))
    assert job["status"] == "done", job["error"]
    page.evaluate("id => { location.hash = `take=${id}` }", job["id"])
    page.reload()
    drawn(page, 4)
    names = page.locator(".lane-name span").all_inner_texts()
    assert names == ["Original", "beep", "bell", "The rest"]
    page.locator(f"[data-job={job['id']}] [aria-label^=Repeat]").click()
    expect(page.locator("#prompts input")).to_have_count(2)
    expect(page.locator("#spans [name=sound]")).to_have_value("1")


def test_found_spans_come_back_to_be_edited_over_a_broken_stream(page, server, sound, take):
    models = server.ask("/v1/models")
    models["data"][0]["spans"] = True  # as if a predictor were installed
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.reload()
    page.set_input_files("#file", sound)
    drawn(page, 1)
    page.fill("#prompt-0", "beep")
    file = {"file": page.url.split("file=")[1]}
    job = {**take, "id": "j_" + 32 * "0", "kind": "spans", "status": "running", "stems": {}}
    job |= {"input": {**file, "name": "beeps.wav"}, "predicted": True, "spans": [["+", 0.1, 0.5]]}
    event = f"id: 0\nevent: state\ndata: {json.dumps(job)}\n\n"
    end = f"id: end\nevent: done\ndata: {json.dumps(job | {'status': 'done'})}\n\n"
    streams = [event + end[:100], end]  # the first one breaks off

    def stream(route):
        heard.append(route.request.headers.get("last-event-id"))
        route.fulfill(body=streams[len(heard) - 1], content_type="text/event-stream")

    heard, posted = [], []
    page.route("**/events", stream)
    page.route(
        "**/v1/jobs",
        lambda route: (posted.append(route.request.post_data_json), route.fulfill(json=job)),
        times=1,
    )
    page.evaluate("document.getElementById('find-spans').click()")
    expect(page.locator("#spans tr.predicted")).to_have_count(1)
    assert posted == [{"kind": "spans", "input": file, "model": "demo", "description": "beep"}]
    assert heard == [None, "0"]
    assert rows(page) == job["spans"]
    page.fill("#spans [name=end]", "0.6")
    page.keyboard.press("Tab")
    expect(page.locator("#spans tr.predicted")).to_have_count(0)
    request = asked(page, lambda: page.click("#separate"))
    assert request["spans"] == [["+", 0.1, 0.6]]


def test_a_hidden_page_asks_instead_of_holding_a_stream(page, take):
    job = {**take, "id": "j_" + 32 * "0", "status": "running", "stems": {}}
    place = f"**/v1/jobs/{job['id']}"
    page.route("**/v1/jobs", lambda route: route.fulfill(json={"data": [job]}))
    page.route(place, lambda route: route.fulfill(json=job))
    page.route(f"{place}/events", lambda route: None)  # on and on

    def hide(hidden: bool) -> None:
        page.evaluate(
            """hidden => {
              Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )

    with page.expect_request(f"{place}/events"):
        page.reload()
    with page.expect_request(place), page.expect_event("requestfailed") as stream:
        hide(True)
    assert stream.value.url.endswith("/events")
    with page.expect_request(f"{place}/events"):
        hide(False)


def test_two_tabs(context, server, take, sound):
    one, other = opened(context, server), opened(context, server)
    job = server.start(server.upload(sound), "bird", steps=1)

    def visit(page) -> None:
        page.bring_to_front()
        page.evaluate("dispatchEvent(new Event('focus'))")

    for page in (one, other):
        visit(page)
        expect(page.locator(f"[data-job={job['id']}] .take-facts")).to_contain_text(" 1 step ")
    server.finished(job)
    visit(one)
    row = one.locator(f"[data-job={job['id']}]")
    row.locator("summary").click()
    row.get_by_text("Rename").click()
    one.keyboard.type("the bird at dawn")
    one.keyboard.press("Enter")
    expect(row.locator(".take-name")).to_have_text("the bird at dawn")
    visit(other)
    expect(other.locator(f"[data-job={job['id']}] .take-name")).to_have_text("the bird at dawn")
    visit(one)
    row.locator("summary").click()
    row.get_by_text("Delete").click()
    expect(row).to_have_count(0)
    visit(other)
    expect(other.locator(f"[data-job={job['id']}]")).to_have_count(0)


def test_a_long_file_takes_the_memory_of_a_few_pieces(page, server, tmp_path):
    rate, minutes = 8000, 10
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 60 * rate * minutes)
    soundfile.write(tmp_path / "long.flac", noise, rate)
    asked = []
    page.on("request", lambda request: "/pcm" in request.url and asked.append(request.url))
    page.evaluate(
        """() => {
          const words = document.getElementById("upload-words");
          window.told = [];
          new MutationObserver(() => told.push(
            [words.textContent, document.getElementById("uploaded").position >= 0],
          )).observe(words, { childList: true });
        }"""
    )
    page.set_input_files("#file", tmp_path / "long.flac")
    drawn(page, 1)
    words = [["sending long.flac\u2026", True], ["reading long.flac\u2026", False]]
    assert page.evaluate("told") == words
    width = page.locator("#ruler").bounding_box()["width"]
    for at in (0.1, 0.5, 0.9):
        page.click("#ruler", position={"x": at * width, "y": 10})
        if at == 0.1:
            page.click("#play")
        page.wait_for_function(
            "async () => { const { player } = await import('/web/main.js');"
            " const before = player.time; await new Promise((go) => setTimeout(go, 150));"
            " return !player.waiting && player.time > before; }"
        )
    page.click("#zoom-in")
    held = page.evaluate(
        "async () => [...(await import('/web/main.js')).player.tracks.values()][0].pieces.size"
    )
    assert held <= 3 and len(asked) <= 9


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 360)])
def test_everybody_can_use_it(context, server, take, theme, width):
    page = opened(context, server, f"take={take['id']}")
    drawn(page, 3)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.click("#add-span")
    page.click("#more summary")
    page.evaluate("document.getElementById('help').open = true")
    found = axe.Axe().run(page).response["violations"]
    assert not found, json.dumps([[one["id"], one["nodes"][0]["html"]] for one in found], indent=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tree = page.locator("body").aria_snapshot()
    for part in ("banner", "main", 'complementary "Takes"', 'slider "Position"', 'region "Lanes"'):
        assert f"- {part}" in tree, tree
    expect(page.get_by_role("slider", name="Position")).to_have_attribute(
        "aria-valuetext", "0:00 of 0:01"
    )


def test_without_its_token_the_page_says_so(context, server):
    if not server.token:
        pytest.skip("this server asks for none")
    page = context.browser.new_page()
    page.goto(server.origin)
    told = page.get_by_text("Open the address that the playground printed: it holds the token.")
    expect(told).to_have_count(1)
    expect(page.locator("#connection")).to_have_text(told.inner_text())
    page.click("#example")
    page.wait_for_timeout(200)
    expect(told).to_have_count(1)
    expect(page.locator(".error").filter(visible=True)).to_have_count(0)
    page.close()
