"""The report in a real browser: Debian's chromium and chromium-driver, driven by Selenium."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SCREENSHOTS = os.environ.get("REPORT_SCREENSHOTS")  # folder that keeps them, to look at

# Mean squared error between what the page shows and the original, over R, G and B.
MEAN_SQUARED_ERROR = """
  const [a, b] = [arguments[0], "original"].map((name) => pixelsOf(shown.pictures[name]).data);
  let sum = 0;
  for (let i = 0; i < a.length; i++) if (i % 4 !== 3) sum += (a[i] - b[i]) ** 2;
  return sum / (0.75 * a.length);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of two photographs, with classic codecs at equal bytes."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    pytest.importorskip("selenium", reason="pip install selenium")
    for module in ("bjontegaard", "matplotlib"):
        pytest.importorskip(module, reason="pip install -r requirements-eval.txt")
    import evaluate

    folder = tmp_path_factory.mktemp("report")
    for name in ("image_120x179", "image_128x192"):
        # Twice as large, so that MS-SSIM is defined.
        picture = Image.open(REFERENCE / f"{name}.png")
        picture.resize((2 * picture.width, 2 * picture.height)).save(folder / f"{name}.png")
    Image.new("RGB", (64, 64), (128, 128, 128)).save(folder / "z_flat.png")  # JPEG restores it
    model = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm"]
    arguments = ["evaluate.py", "report", "--images", folder, *model, "--num-filters", NUM_FILTERS]
    arguments += ["-o", folder / "out", "--codecs", "jpeg", "jpeg2000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(part) for part in arguments])
        assert evaluate.main() == 0
    return folder / "out" / "report.html"


@pytest.fixture
def browser(report):
    """A browser that has loaded the page; the test fails if it writes anything to the console."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1280,1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(report.as_uri())
        WebDriverWait(driver, 30).until(
            lambda d: d.execute_script("return document.body.dataset.ready") == "0"
        )
        yield driver
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


def keep_screenshot(driver, name):
    """Returns the screen as (H, W, 3) pixels and keeps it where REPORT_SCREENSHOTS says."""
    import io

    import numpy as np

    # Two frames, so that what was asked for has been painted.
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )
    data = driver.get_screenshot_as_png()
    if SCREENSHOTS:
        Path(SCREENSHOTS, f"{name}.png").write_bytes(data)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def split_value(driver):
    return int(driver.find_element("id", "split").get_attribute("aria-valuenow"))


def press(driver, *keys):
    driver.find_element("id", "split").send_keys(*keys)


def test_the_line_moves_by_keys_and_by_dragging(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    before = keep_screenshot(browser, "start")
    assert split_value(browser) == 50
    press(browser, Keys.ARROW_LEFT * 5)
    keep_screenshot(browser, "left")
    assert split_value(browser) == 40
    press(browser, Keys.SHIFT, Keys.ARROW_RIGHT, Keys.NULL)
    keep_screenshot(browser, "right")
    assert split_value(browser) == 50
    line = browser.find_element("id", "split")
    width = browser.find_element("id", "viewer").size["width"]
    ActionChains(browser).drag_and_drop_by_offset(line, int(0.2 * width), 0).perform()
    after = keep_screenshot(browser, "dragged")
    assert split_value(browser) == 70
    assert (abs(after - before).max(axis=-1) > 16).mean() > 0.01  # the picture has changed


def test_the_pixels_have_the_quality_that_is_stated(browser):
    """Ours are exact; a JPEG may be decoded by the browser a little differently."""
    import numpy as np

    model = browser.execute_script("return shown.model")
    assert [classic["codec"] for classic in model["classics"]] == ["jpeg", "jpeg2000"]
    stated = {"model": model["psnr"]}
    stated.update({str(i): classic["psnr"] for i, classic in enumerate(model["classics"])})
    for name, psnr in stated.items():
        error = browser.execute_script(MEAN_SQUARED_ERROR, name)
        assert 10 * np.log10(255**2 / error) == pytest.approx(
            psnr, abs=0.2 if name == "0" else 0.01
        )


def test_error_and_bits(browser):
    from selenium.webdriver.common.action_chains import ActionChains

    pictures = [keep_screenshot(browser, "picture")]
    press(browser, "e")
    pictures.append(keep_screenshot(browser, "error"))
    assert browser.find_element("id", "gain").is_displayed()
    press(browser, "b")
    pictures.append(keep_screenshot(browser, "bits"))
    assert browser.find_element("id", "legend").is_displayed()
    for a, b in zip(pictures, pictures[1:]):
        assert (abs(a - b).max(axis=-1) > 16).mean() > 0.05
    viewer = browser.find_element("id", "viewer")
    ActionChains(browser).move_to_element_with_offset(viewer, 60, 40).perform()
    probe = browser.find_element("id", "probe")
    assert probe.is_displayed() and " bits, " in probe.text
    shown = browser.execute_script("return shown.model.map.tenths.reduce((a, b) => a + b) / 10")
    payload = browser.execute_script("return shown.model.payload")
    assert shown == pytest.approx(8 * sum(payload), rel=0.01)


def test_zoom_and_images_by_keys(browser):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    zoom = browser.find_element("id", "zoom-value")
    fitted = zoom.text
    press(browser, "1")
    keep_screenshot(browser, "one")
    assert zoom.text == "100 %" != fitted
    press(browser, "+")
    keep_screenshot(browser, "zoomed")
    assert zoom.text == "150 %"
    press(browser, "0")
    keep_screenshot(browser, "fitted")
    assert zoom.text == fitted
    press(browser, Keys.ARROW_DOWN)
    WebDriverWait(browser, 30).until(
        lambda d: d.execute_script("return document.body.dataset.ready") == "1"
    )
    assert "image_128x192" in browser.find_element("id", "canvas").get_attribute("aria-label")


def test_the_chart_tells_values(browser):
    from selenium.webdriver.common.action_chains import ActionChains

    points = browser.find_elements("css selector", "#chart .point")
    assert len(points) > 8 + 8 + 4  # two classic codecs and the papers
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[-1])
    ActionChains(browser).move_to_element(points[-1]).perform()
    tip = browser.find_element("id", "tip")
    assert tip.is_displayed() and "bpp" in tip.text and "dB PSNR" in tip.text
    browser.find_element("css selector", "[data-metric=ms_ssim_db]").click()
    keep_screenshot(browser, "chart")
    label = browser.find_elements("css selector", "#chart .point")[-1].get_attribute("aria-label")
    assert label.startswith("model-0 (ours)")
    boxes = browser.find_elements("css selector", "#series input")
    for box in boxes:
        box.click()
    assert not browser.find_elements("css selector", "#chart .point")


def test_what_is_left_out_of_the_means_is_named(browser):
    note = browser.find_element("id", "numbers-note").text
    assert note.startswith(
        "Mean over 2 images, without 1 that a codec restored exactly. z_flat.png"
    )
    assert "JPEG (4:2:0)" in note


def test_dark_and_narrow(browser):
    light = keep_screenshot(browser, "light")
    browser.find_element("id", "theme").click()
    dark = keep_screenshot(browser, "dark")
    assert dark[5, 5].sum() < 150 < 600 < light[5, 5].sum()
    browser.set_window_size(500, 900)
    keep_screenshot(browser, "narrow")
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(overflow) <= 0


def test_the_picture_of_the_report(report, tmp_path):
    import subprocess

    script = Path(__file__).resolve().parents[2] / "docs" / "make_report_picture.py"
    command = [sys.executable, script, report, "--photograph", "1", "-o", tmp_path / "a.png"]
    subprocess.run([str(part) for part in command], check=True)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1220 and len(picture.getcolors(1 << 24)) > 1000
