"""The page of a session as somebody uses it: from file://, without a network."""

import json

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import AXE, opened, shown, until

pytestmark = pytest.mark.browser


def view(driver, key):
    """A view, once its volumes are drawn."""
    figure = shown(driver, driver.find_element(By.ID, key))
    until(lambda: figure.get_attribute("data-ready"))
    return figure


def pixels(driver, canvas):
    """Grey values of a canvas, as a list."""
    script = (
        "const c = arguments[0];"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((v, i) => i % "
        "4 === 0)"
    )
    return driver.execute_script(script, canvas)


def requests_of(driver):
    """Addresses that the page asked for beside itself."""
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def test_no_request_and_no_error_whatever_is_opened(chromium, pages):
    page = pages / "sub-01.html"
    driver = opened(chromium, page)
    for figure in driver.find_elements(By.CSS_SELECTOR, "figure.view"):
        view(driver, figure.get_attribute("id"))
    assert requests_of(driver) == [page.as_uri()]
    assert driver.get_log("browser") == []


def test_flicker_goes_on_by_itself(chromium, pages):
    figure = view(opened(chromium, pages / "sub-01.html"), "FLAIR-result-view")
    button = figure.find_element(By.CSS_SELECTOR, ".flicker")
    assert figure.get_attribute("data-shown") == "restored"
    shown(chromium, button).click()
    assert button.get_attribute("aria-pressed") == "true"
    until(lambda: figure.get_attribute("data-shown") == "interpolated")
    until(lambda: figure.get_attribute("data-shown") == "restored")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"


def test_keys_move_swap_and_pick(chromium, pages):
    figure = view(opened(chromium, pages / "sub-01.html"), "FLAIR-result-view")
    canvas = figure.find_element(By.TAG_NAME, "canvas")
    before = canvas.get_attribute("aria-label"), pixels(chromium, canvas)
    canvas.send_keys(Keys.ARROW_UP)
    assert canvas.get_attribute("aria-label") != before[0]
    assert pixels(chromium, canvas) != before[1]
    canvas.send_keys(Keys.ARROW_DOWN)
    assert (canvas.get_attribute("aria-label"), pixels(chromium, canvas)) == before
    canvas.send_keys(" ")
    assert figure.get_attribute("data-shown") == "interpolated"
    canvas.send_keys("3")
    assert figure.get_attribute("data-shown") == "T1w"


def test_every_slice_can_be_scrolled_to(chromium, pages):
    figure = view(opened(chromium, pages / "sub-01.html"), "FLAIR-stack1-slices-view")
    slider = figure.find_element(By.CSS_SELECTOR, "input.axis-2")
    seen = set()
    for position in range(int(slider.get_attribute("max")) + 1):
        set_range(chromium, slider, position)
        seen.add(tuple(pixels(chromium, figure.find_element(By.TAG_NAME, "canvas"))))
    assert len(seen) == int(slider.get_attribute("max")) + 1 == 8


def set_range(driver, slider, value):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    driver.execute_script(script, slider, value)


def test_the_border_shows_the_one_on_its_left_and_the_other_on_its_right(chromium, pages):
    figure = view(opened(chromium, pages / "sub-01.html"), "FLAIR-stack1-slices-view")
    canvas = figure.find_element(By.TAG_NAME, "canvas")
    right = pixels(chromium, canvas)
    slider = figure.find_element(By.CSS_SELECTOR, "input.border")
    set_range(chromium, slider, 100)
    left = pixels(chromium, canvas)
    set_range(chromium, slider, 50)
    half = pixels(chromium, canvas)
    width = int(canvas.get_attribute("width"))

    def rows_of(values, start, end):
        return [values[row + start : row + end] for row in range(0, len(values), width)]

    assert left != right
    assert rows_of(half, 0, width // 2 - 80) == rows_of(left, 0, width // 2 - 80)
    assert rows_of(half, width // 2 + 80, width) == rows_of(right, width // 2 + 80, width)


def test_a_click_moves_all_planes(chromium, pages):
    figure = view(opened(chromium, pages / "sub-01.html"), "FLAIR-result-view")
    canvases = figure.find_elements(By.TAG_NAME, "canvas")
    before = [canvas.get_attribute("aria-label") for canvas in canvases]
    ActionChains(chromium).move_to_element_with_offset(canvases[0], 30, 20).click().perform()
    after = [canvas.get_attribute("aria-label") for canvas in canvases]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_the_viewer_draws_three_images_with_one_crosshair(chromium, pages):
    driver = opened(chromium, pages / "sub-01.html")
    viewer = shown(driver, driver.find_element(By.CSS_SELECTOR, "#FLAIR-viewer .viewer"))
    assert viewer.find_elements(By.TAG_NAME, "canvas") == []
    viewer.find_element(By.CSS_SELECTOR, ".open").click()
    until(lambda: viewer.get_attribute("data-ready"))
    canvases = viewer.find_elements(By.TAG_NAME, "canvas")
    assert len(canvases) == 3
    drawn = (
        "const nv = arguments[0].niivues[arguments[1]]; nv.drawScene();"
        "const gl = nv.gl, w = gl.drawingBufferWidth, h = gl.drawingBufferHeight, p = new Uint8Array(w * "
        "h * 4);"
        "gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, p);"
        "let n = 0; for (let i = 0; i < p.length; i += 4) n += p[i] > 60 && p[i] === p[i + 1]; return n "
        "/ (w * h)"
    )
    for n in range(3):
        assert driver.execute_script(drawn, viewer, n) > 0.05
    places = (
        "return arguments[0].niivues.map((nv) => [...nv.scene.crosshairPos].map((x) => x.toFixed(3)).join())"
    )
    before = driver.execute_script(places, viewer)
    ActionChains(driver).move_to_element_with_offset(shown(driver, canvases[0]), -40, -50).click().perform()
    until(lambda: driver.execute_script(places, viewer)[0] != before[0])
    assert len(set(driver.execute_script(places, viewer))) == 1
    assert "mm (RAS)" in viewer.find_element(By.CSS_SELECTOR, ".location").text
    viewer.find_elements(By.CSS_SELECTOR, ".switch input")[3].click()
    assert [canvas.is_displayed() for canvas in canvases] == [False, False, True]
    set_range(driver, viewer.find_element(By.CSS_SELECTOR, ".blend"), 30)
    assert driver.execute_script("return arguments[0].niivues[2].volumes[1].opacity", viewer) == 0.3
    viewer.find_element(By.CSS_SELECTOR, ".close").click()
    assert viewer.find_elements(By.TAG_NAME, "canvas") == []
    assert len(requests_of(driver)) == 1
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_rating_is_saved_as_json(chromium, pages):
    driver = opened(chromium, pages / "sub-01.html")
    form = shown(driver, driver.find_element(By.CSS_SELECTOR, "form.rating"))
    submit = form.find_element(By.CSS_SELECTOR, "button[type=submit]")
    shown(driver, submit).click()
    assert "Pick" in form.find_element(By.CSS_SELECTOR, "[role=status]").text
    flair = form.find_element(By.CSS_SELECTOR, "[data-target=FLAIR]")
    shown(driver, flair.find_element(By.CSS_SELECTOR, "[value=doubtful]")).click()
    flair.find_element(By.CSS_SELECTOR, "[value=motion]").click()
    form.find_element(By.TAG_NAME, "textarea").send_keys('two "rings"')
    shown(driver, submit).click()
    path = chromium.downloads / "sub-01_rating.json"
    until(path.exists)
    saved = json.loads(path.read_text("utf-8"))
    assert saved["targets"] == {"FLAIR": {"rating": "doubtful", "artefacts": ["motion"]}}
    assert saved["comment"] == 'two "rings"'


def test_a_failed_session_says_why(chromium, pages):
    text = opened(chromium, pages / "sub-02.html").find_element(By.TAG_NAME, "main").text
    assert "Failed sub-02: found no T1w" in text


def test_a_script_in_a_file_runs_nowhere(chromium, pages):
    driver = opened(chromium, pages / "nasty.html")
    for figure in driver.find_elements(By.CSS_SELECTOR, "figure.view"):
        view(driver, figure.get_attribute("id"))
    assert "owned" not in driver.title.replace("document.title = 'owned'", "").replace("title='owned'", "")
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("name", ["sub-01", "sub-02"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_nothing_serious_for_axe(chromium, pages, name, width, dark):
    if not AXE.exists():
        pytest.skip("no axe-core: tests/browser/install.sh fetches it")
    driver = opened(chromium, pages / f"{name}.html", width, dark)
    for figure in driver.find_elements(By.CSS_SELECTOR, "figure.view"):
        view(driver, figure.get_attribute("id"))
    assert serious(driver) == []


def serious(driver):
    """What axe-core finds that is serious or critical: rule and first element."""
    driver.execute_script(AXE.read_text("utf-8"))
    driver.set_script_timeout(120)
    found = driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
    return [
        (rule["id"], rule["nodes"][0]["html"][:120])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(chromium, pages, width):
    driver = opened(chromium, pages / "sub-01.html", width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
