"""A report's page in headless Chromium, as a reader meets it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fmnist_xp.backend import CpuBackend

HOSTILE = "<script>alert(1)<"


@pytest.fixture(scope="module")
def page_file(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs, the second of which ends with a loss that is not finite."""
    for name in ("plotly", "jinja2"):
        pytest.importorskip(name, reason="Plotly and Jinja2, which reports are made with, are not installed")
    from fmnist_xp.reporting import report_runs

    folder = tmp_path_factory.mktemp("page")
    first, second = (Path(shutil.copytree(finished_run, folder / name)) for name in ("first", HOSTILE))
    header, *rows = (second / "history.csv").read_text().splitlines()
    changed = rows[-1].split(",")
    changed[2] = "nan"
    lines = [f"{header},validation_accuracy,validation_loss", *(f"{row},0.5,1.5" for row in rows[:-1])]
    (second / "history.csv").write_text("\n".join([*lines, f"{','.join(changed)},0.5,1.5", ""]))
    report_runs([first, second], folder / "page.html", None, CpuBackend(2))
    return folder / "page.html"


class Reader:
    """The page open in a window, with what it asked for and complained of."""

    def __init__(self, window: Any, file: Path) -> None:
        self.window = window
        self.complaints: list[str] = []
        self.requests: list[str] = []
        window.on("console", lambda message: self.complaints.append(message.text))
        window.on("pageerror", lambda error: self.complaints.append(str(error)))
        window.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        window.on("request", lambda request: self.requests.append(request.url))
        window.goto(file.as_uri())
        window.wait_for_selector("#curves .scatterlayer .trace")

    def shown(self) -> list[tuple[int, bool]]:
        """Return (run, is it visible) of each trace, as Plotly has it."""
        script = "document.getElementById('curves').data.map(trace => [trace.meta, trace.visible !== false])"
        return [tuple(pair) for pair in self.window.evaluate(script)]

    def lines(self) -> int:
        """Return the number of lines that are drawn."""
        return int(self.window.locator("#curves .scatterlayer .trace path.js-line").count())

    def assert_content(self, file: Path) -> None:
        """Assert that nothing was asked of anybody, and that nobody complained."""
        assert self.complaints == []
        asked = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert asked == [file.as_uri()]


@pytest.fixture
def reader(chromium: Any, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
    options = getattr(request, "param", {"viewport": {"width": 1200, "height": 900}})
    window = chromium.new_page(**options)
    window.set_default_timeout(600_000)  # a page that waits so long is stuck, however busy the machine is
    reader = Reader(window, page_file)
    yield reader
    reader.assert_content(page_file)
    window.close()


def test_curves_are_drawn(reader: Reader) -> None:
    # Three of the first run; five lines and the mark of the second.
    assert reader.shown() == [(0, True)] * 3 + [(1, True)] * 6
    assert reader.lines() == 8
    assert reader.window.locator("#curves .scatterlayer .points path").count() >= 8 * 4
    texts = reader.window.locator("#curves .infolayer .annotation-text").all_text_contents()
    assert texts == ["Accuracy", "Loss", "Learning rate"]


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_a_run_is_hidden_and_shown_again(reader: Reader, way: str) -> None:
    entry = reader.window.get_by_label(HOSTILE, exact=False).first
    assert entry.is_checked()

    def toggle() -> None:
        if way == "mouse":
            reader.window.locator("#runs label", has_text=HOSTILE).click()
        else:
            entry.press("Space")

    toggle()
    assert reader.shown() == [(0, True)] * 3 + [(1, False)] * 6
    assert reader.lines() == 3
    toggle()
    assert reader.shown() == [(0, True)] * 3 + [(1, True)] * 6
    assert reader.lines() == 8


def test_the_mouse_finds_values(reader: Reader, finished_run: Path) -> None:
    first = reader.window.locator("#curves .scatterlayer .points path").first
    first.scroll_into_view_if_needed()
    box = first.bounding_box()
    reader.window.mouse.move(box["x"] + 4, box["y"] + 4)
    reader.window.wait_for_selector("#curves .hoverlayer .legendtext")
    accuracy = float((finished_run / "history.csv").read_text().splitlines()[1].split(",")[1])
    texts = reader.window.locator("#curves .hoverlayer .legendtext").all_text_contents()
    assert texts == [f"first : {accuracy:.4f}", f"{HOSTILE} : {accuracy:.4f}", f"{HOSTILE}, validation : 0.5000"]


def test_dragging_zooms_and_a_double_click_goes_back(reader: Reader) -> None:
    def shown() -> list[float]:
        return list(reader.window.evaluate("document.getElementById('curves')._fullLayout.xaxis.range"))

    before = shown()
    panel = reader.window.locator("#curves .xy .nsewdrag").first
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    left, middle = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    reader.window.mouse.move(left, middle)
    reader.window.mouse.down()
    reader.window.mouse.move(left + box["width"] / 2, middle, steps=5)
    reader.window.mouse.up()
    reader.window.wait_for_function(
        "before => document.getElementById('curves')._fullLayout.xaxis.range[0] > before", arg=before[0]
    )
    zoomed = shown()
    assert before[0] < zoomed[0] < zoomed[1] < before[1]
    reader.window.mouse.dblclick(left, middle)
    reader.window.wait_for_function(
        "zoomed => document.getElementById('curves')._fullLayout.xaxis.range[0] < zoomed", arg=zoomed[0]
    )
    assert shown() == pytest.approx(before)


def test_no_button_sends_the_curves_away(reader: Reader) -> None:
    titles = [button.get_attribute("data-title") for button in reader.window.locator(".modebar-btn").all()]
    assert "Zoom" in titles
    assert not [title for title in titles if any(word in title for word in ("Share", "Cloud", "Edit", "Plotly"))]


@pytest.mark.parametrize(
    "reader",
    [{"viewport": {"width": 400, "height": 800}, "color_scheme": scheme} for scheme in ("light", "dark")],
    indirect=True,
)
def test_a_telephone_scrolls_tables_and_not_the_page(reader: Reader) -> None:
    assert reader.window.evaluate("document.scrollingElement.scrollWidth") <= 400
    assert reader.window.evaluate("document.querySelector('.matrix').parentElement.scrollWidth") > 400
    assert reader.window.locator("#curves svg.main-svg").first.bounding_box()["width"] <= 400


@pytest.mark.parametrize(
    ("reader", "dark"), [({"color_scheme": "light"}, False), ({"color_scheme": "dark"}, True)], indirect=["reader"]
)
def test_text_stands_out_from_the_page(reader: Reader, dark: bool) -> None:
    """In the curves too, whose colours Plotly would choose for a white page."""

    def brightness(selector: str, kind: str) -> int:
        script = f"element => getComputedStyle(element).{kind}"
        colour = reader.window.locator(selector).first.evaluate(script)
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) // 3

    page = brightness("body", "backgroundColor")
    texts = [brightness("body", "color"), brightness("#curves .xtick text", "fill")]
    assert page < 64 if dark else page > 192
    assert all(text > 192 if dark else text < 64 for text in texts)


@pytest.mark.parametrize("reader", [{"color_scheme": "dark"}], indirect=True)
def test_it_is_printed_in_black_on_white_within_the_paper(reader: Reader, tmp_path: Path) -> None:
    reader.window.emulate_media(media="print")
    assert reader.window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    reader.window.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert (
        reader.window.evaluate("document.querySelector('#curves svg.main-svg').getBoundingClientRect().width") == 680
    )
    reader.window.evaluate("dispatchEvent(new Event('afterprint'))")
    assert reader.window.pdf(format="A4").startswith(b"%PDF")
