"""Takes docs/report.png: python docs/make_report_picture.py REPORT.html [-o OUT.png]

REPORT.html is that of evaluate.py report --images valid/ --lambdas 0.0032 --page REPORT.html. Needs
Debian's chromium and chromium-driver, and Selenium (requirements-dev.txt).
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import errors as cli_errors
from cli import options

PHOTOGRAPH = 2  # which of the report's, counted from 0: of valid/ chelsea.png
WINDOW = 1220, 1130  # pixels, of which the browser takes some of the height


def main():
    """Writes the picture."""
    parser = options.parser_for(__doc__)
    parser.add_argument("report", type=Path)
    own = Path(__file__).with_name("report.png")
    parser.add_argument("-o", "--output", type=Path, default=own, help="(default: docs/)")
    parser.add_argument(
        "--photograph", type=options.whole, default=PHOTOGRAPH, metavar="I", help="from 0"
    )
    args = parser.parse_args()
    chrome = webdriver.ChromeOptions()
    chrome.binary_location = shutil.which("chromium")
    size = f"window-size={WINDOW[0]},{WINDOW[1]}"
    for argument in ("headless=new", "no-sandbox", "hide-scrollbars", size):
        chrome.add_argument(f"--{argument}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=chrome, service=service)
    try:
        driver.get(args.report.resolve().as_uri())
        ready = "return document.body.dataset.ready"
        WebDriverWait(driver, 30).until(lambda d: d.execute_script(ready) == "0")
        driver.find_elements("css selector", "#film > *")[args.photograph].click()
        WebDriverWait(driver, 30).until(
            lambda d: d.execute_script(ready) == str(args.photograph),
            "The photograph is not shown.",
        )
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()
    picture.save(args.output, optimize=True)


if __name__ == "__main__":
    cli_errors.run(main)
