"""The page of all participants as somebody uses it."""

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.browser.conftest import AXE, opened, shown, until
from tests.browser.test_page import requests_of, serious
from tests.report.test_group_page import group, images_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages of 30 and of 1,000 participants, and that of the one that is opened."""
    folder = tmp_path_factory.mktemp("group")
    for n in (30, 1000):
        (folder / f"group-{n}.html").write_text(group(images_of(folder, n)), encoding="utf-8")
    for n in range(30):
        (folder / f"sub-{n:04d}.html").write_text(f"<title>{n}</title>", encoding="utf-8")
    return folder


def strip(driver, metric):
    holder = shown(driver, driver.find_element(By.CSS_SELECTOR, f"[data-metric={metric}]"))
    until(lambda: holder.get_attribute("data-ready"))
    return holder


def test_one_participant_is_highlighted_everywhere(chromium, folder):
    driver = opened(chromium, folder / "group-30.html")
    strip(driver, "noise_sd")
    driver.find_element(By.ID, "highlight").send_keys("sub-0007")
    marked = driver.find_elements(By.CSS_SELECTOR, ".chosen")
    assert len(marked) == 2
    assert all("sub-0007" in element.text for element in marked)
    assert requests_of(driver) == [(folder / "group-30.html").as_uri()]
    assert driver.get_log("browser") == []


def test_a_point_opens_its_page(chromium, folder):
    driver = opened(chromium, folder / "group-30.html")
    over = strip(driver, "noise_sd").find_element(By.CSS_SELECTOR, ".u-over")
    width = over.size["width"]
    # The greatest value lies 4 % of the range from the right edge.
    mouse = ActionChains(driver)
    for height in range(-14, 16, 4):
        mouse.move_to_element_with_offset(over, round(width * (0.5 - 0.04 / 1.08)) - 2, height)
    mouse.perform()
    chosen = until(lambda: driver.find_element(By.TAG_NAME, "body").get_attribute("data-chosen"))
    mouse.click().perform()
    until(lambda: driver.title == str(int(chosen.removeprefix("sub-"))))


def test_filters_narrow_table_and_pictures(chromium, folder):
    driver = opened(chromium, folder / "group-30.html")

    def n_shown(selector):
        return driver.execute_script(f"return document.querySelectorAll('{selector}:not([hidden])').length")

    Select(driver.find_element(By.ID, "warned")).select_by_visible_text("with warnings")
    assert n_shown(".picture") == n_shown("#table tbody tr") == 6
    Select(driver.find_element(By.ID, "rating")).select_by_visible_text("good")
    assert n_shown(".picture") == n_shown("#table tbody tr") == 2
    assert "2 of 30 shown" in driver.find_element(By.ID, "count").text


def test_all_columns_on_demand(chromium, folder):
    driver = opened(chromium, folder / "group-30.html")
    button = shown(driver, driver.find_element(By.ID, "columns"))
    before = len(driver.find_elements(By.CSS_SELECTOR, "#table thead th"))
    button.click()
    assert len(driver.find_elements(By.CSS_SELECTOR, "#table thead th")) > before + 20


def test_a_thousand_open_within_two_seconds(chromium, folder):
    """Of the renderer's own time: what other programs take is not the page's."""
    driver = opened(chromium, folder / "group-1000.html")

    def seconds():
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ProcessTime")

    driver.execute_cdp_cmd("Performance.enable", {})
    before = seconds()
    driver.refresh()
    assert seconds() - before < 2
    assert "1000 of 1000" in driver.find_element(By.ID, "count").text


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_nothing_serious_for_axe(chromium, folder, width, dark):
    if not AXE.exists():
        pytest.skip("no axe-core: tests/browser/install.sh fetches it")
    driver = opened(chromium, folder / "group-30.html", width, dark)
    strip(driver, "noise_sd")
    assert serious(driver) == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
