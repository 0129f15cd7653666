"""scripts/report.py: the page's numbers and images read back, and the page used in a headless browser."""

import base64
import io
import json
import re
import shutil
import time

import numpy as np
import pytest
import report
from conftest import check_error, run_inside
from PIL import Image

from modules.runtime import InputError
from modules.show.runs import read_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def tested(dance, trained, tmp_path_factory):
    """A run folder with the Tester's folder in it, and its report."""
    folder = tmp_path_factory.mktemp("report") / "run <one>"
    shutil.copytree(trained[0], folder)
    flags = ["--save_root", folder / "test", "--ckpt_path", folder / "best.ckpt", "--device", "cpu"]
    result = run_inside("Tester.py", "--DR", dance, *flags)
    assert result.returncode == 0, result.stderr
    result = run_inside("report.py", folder)
    assert result.returncode == 0, result.stderr
    return folder, (folder / "report.html").read_text()


def page_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def sheet_frame(sequence, kind, t):
    """Frame t (0-based) of a sheet, cut out as the page does."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sequence["sprites"][kind].split(",")[1]))).convert("RGB"))
    height, width, columns = (sequence[key] for key in ("height", "width", "columns"))
    top, left = t // columns * height, t % columns * width
    return sheet[top : top + height, left : left + width]


def test_sheets_hold_every_frame_exactly(tested):
    folder, page = tested
    sequences = page_data(page)["sequences"]
    assert [s["name"] for s in sequences] == ["0", "1"]
    for sequence in sequences:
        with np.load(folder / f"test/seq{sequence['name']}/frames.npz") as video:
            for kind in ("truth", "pose", "prediction"):
                assert sequence["frames"] == len(video[kind]) == 10
                for t in range(10):
                    assert np.array_equal(sheet_frame(sequence, kind, t), video[kind][t]), (kind, t)


def test_page_holds_the_scores_the_settings_and_nothing_from_outside(tested):
    folder, page = tested
    metrics = json.loads((folder / "test/metrics.json").read_text())
    assert page_data(page)["sequences"][1]["psnr"] == metrics["sequences"][1]["psnr_per_frame"]
    rows = re.findall(r'<tr class="(\w+)"><td>(.*?)</td><td class=".*?">.*?</td><td>(.*?)</td>', page)
    assert [row[:2] for row in rows if row[0] == "model"] == [("model", "0"), ("model", "1"), ("model", "mean")]
    shown = {(kind, i): float(psnr) for i, (kind, _, psnr) in enumerate(rows)}
    assert shown["model", 0] == pytest.approx(metrics["sequences"][0]["psnr"], abs=0.006)
    baselines = metrics["sequences"][0]["baselines"]
    assert shown["first_frame", 1] == pytest.approx(baselines["first_frame"]["psnr"], abs=0.006)
    assert "<dt>kl_anneal_type</dt><dd>Cyclical</dd>" in page and "<dt>torch</dt>" in page
    assert "run &lt;one&gt;" in page and "<one>" not in page, "names are escaped"
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 7, "every curve"
    outside = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[\w:/.]+""", page.split("<script>")[0]))
    assert not outside and set(re.findall(r"https?://[^\s\"]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "{{" not in page


def test_frames_are_checked_and_large_ones_made_smaller(tmp_path):
    path, noise = tmp_path / "frames.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 256, 3), dtype=np.uint8)
    path.write_bytes(b"PK\x03\x04 no")
    with pytest.raises(InputError, match="cannot be read"):
        report.read_frames(path)
    np.savez_compressed(path, prediction=noise, pose=np.full_like(noise, 70))
    frames = report.read_frames(path)
    assert frames["prediction"].shape == (40, 32, 128, 3) and (frames["pose"] == 70).all(), "wide ones are shrunk"
    scores = {"name": "0", "psnr_per_frame": [float("nan")] * 39}
    png, jpeg = (report.encode(scores, frames, most) for most in (1e7, 5e4))
    assert png["psnr"] is None and 'class="plot"' not in report.player(png), "no number, no curve"
    assert [p["sprites"]["prediction"].partition(";")[0] for p in (png, jpeg)] == ["data:image/png", "data:image/jpeg"]
    assert jpeg["sprites"]["pose"] == png["sprites"]["pose"], "a small sheet stays exact"


def test_a_run_without_a_test_has_a_page_too(trained, tmp_path):
    page = report.build_page(read_run(trained[0]))
    assert "No test sequences" in page and page_data(page)["sequences"] == []
    check_error(run_inside("report.py", trained[0], "--test", tmp_path), "metrics.json: not found")


@pytest.fixture()
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=900,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def canvas_pixels(driver, kind):
    """What a canvas of the first player shows: (H, W, 3)."""
    height, width, values = driver.execute_script(
        """const c = document.querySelector(`section canvas[data-name=${arguments[0]}]`);
        return [c.height, c.width, Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data)];""", kind)
    return np.array(values, dtype=np.uint8).reshape(height, width, 4)[..., :3]


def test_in_a_browser(tested, browser):
    folder, page = tested
    browser.get((folder / "report.html").as_uri())
    wait(lambda: len(browser.find_elements("css selector", "section[data-ready=yes]")) == 2)
    slider = browser.find_element("css selector", "section input")
    output, button = (browser.find_element("css selector", f"section {tag}") for tag in ("output", "button"))
    sequence = page_data(page)["sequences"][0]
    assert output.text == "frame 1 of 10, given"
    assert canvas_pixels(browser, "error").max() <= 4, "the given frame has no error: black"
    slider.send_keys("\ue014\ue014\ue014")  # arrow right, three times: frame 4
    assert output.text == f"frame 4 of 10, PSNR {sequence['psnr'][2]:.2f} dB"
    shown = {kind: canvas_pixels(browser, kind) for kind in ("truth", "pose", "prediction", "error")}
    for kind in ("truth", "pose", "prediction"):
        assert np.array_equal(shown[kind], sheet_frame(sequence, kind, 3)), kind
    difference = np.abs(shown["truth"].astype(int) - shown["prediction"]).mean(axis=2)
    heat = np.array(page_data(page)["heat"])[np.minimum(255, np.floor(difference / 0.25 + 0.5)).astype(int)]
    assert np.abs(heat - shown["error"]).max() <= 12, "within one step of the heat map"

    slider.send_keys("\ue010")  # End
    assert output.text.startswith("frame 10 of 10")
    slider.send_keys(" ")  # plays from the start again
    wait(lambda: button.text == "Pause")
    wait(lambda: button.text == "Play" and output.text.startswith("frame 10 of 10"))

    papers = {}
    for width, scheme in ((400, "light"), (1600, "dark")):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        wait(lambda width=width: browser.execute_script("return innerWidth") == width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "no overflow"
        image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        papers[scheme] = image.getpixel((2, 2))
    assert papers == {"light": (255, 255, 255), "dark": (22, 24, 27)}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == [], "no console errors"
