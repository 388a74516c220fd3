"""Headless Chromium without a network, and pages for it to open from file://."""

import shutil
import tempfile
import time
from pathlib import Path

import pytest

from atlasgs_bids.report.contents import Failure
from atlasgs_bids.report.page import drawn_page
from tests.pages import NASTY, page_contents, target_contents

AXE = Path(__file__).parent / ".axe" / "axe.min.js"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,900",
    # WebGL 2 without a GPU.
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
_PATIENCE_S = 90


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A browser that logs what pages ask for; skipped where there is none."""
    for tool in ("chromium", "chromedriver"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: tests/browser/install.sh installs it")
    webdriver = pytest.importorskip("selenium.webdriver")
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Folder with the page of a finished session, of a failed one, and of one whose files hold scripts."""
    folder = tmp_path_factory.mktemp("pages")
    finished = page_contents(folder, target_contents(folder), target_contents(folder, "T2w"))
    failed = page_contents(folder, label="sub-02", failures=(Failure("sub-02", "found no T1w", "Traceback"),))
    nasty = page_contents(
        folder,
        target_contents(folder, sidecar={"Warnings": [NASTY]}, metrics={"noise_sd": NASTY}),
        label=NASTY,
        settings_toml=NASTY,
        failures=(Failure(NASTY, NASTY, NASTY),),
    )
    for name, contents in (("sub-01", finished), ("sub-02", failed), ("nasty", nasty)):
        (folder / f"{name}.html").write_text(drawn_page(contents).html, encoding="utf-8")
    return folder


def opened(driver, path, width=1280, dark=False):
    """The page in a window of that width, its log emptied before."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(path.as_uri())
    return driver


def shown(driver, element):
    """The element, scrolled to the middle of the window."""
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def until(what):
    """The first value that is true; a busy machine is given time."""
    end = time.monotonic() + _PATIENCE_S
    while not (value := what()):
        assert time.monotonic() < end, "never"
        time.sleep(0.05)
    return value
