import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from page_helpers import Page, hide, image
from run_helpers import CLASSES

from fmnist_xp.errors import FmnistXpError
from fmnist_xp.report.page import Judgement, Mistake, RunOnPage, page_template, render_page
from fmnist_xp.train.history import History

REPORT = "Plotly and Jinja2, which reports are made with, are not installed"
HISTORY = History([0, 10], [0.1, 0.5], [2.3, 1.5], [0.02, 0.019], [0.01, 0.02])
CONFIG = {
    "experiment": {"name": "adam", "hidden": [64, 32], "optimizer": "adam", "learning_rate": 0.02, "epochs": 20},
    "optimizer": {"type": "Adam", "learning_rate": 0.02, "beta_1": 0.9},
    "seed": 3,
    "block_rows": None,
    "keep_best": True,
    "device": "cpu",
    "threads": 2,
    "data": {"source": "/images", "train_rows": 400},
    "versions": {"numpy": "2.4.6"},
}
RESULT = {
    "experiment": "adam", "device": "cpu", "epochs": 1100, "test_accuracy": 0.84321, "test_loss": 0.5, "seed": 3,
    "train_accuracy": 0.9, "train_loss": None, "total_seconds": 1234.56,
    "epoch_seconds": {"median": 0.01234, "min": 0.01, "max": 0.1},
}  # fmt: skip
IMAGE = np.arange(784, dtype=np.uint8).reshape(28, 28)
JUDGEMENT = Judgement(
    np.diag([3, 0, *[8] * 8]) + np.eye(10, k=2, dtype=np.int64), [Mistake(17, IMAGE, 6, 0, 0.98765)]
)


def run(**changes: Any) -> RunOnPage:
    usual = RunOnPage(
        name="a-run", title="a title", config=CONFIG, result=RESULT, history=HISTORY, class_names=CLASSES
    )
    return replace(usual, **changes)


def render(*runs: RunOnPage) -> Page:
    pytest.importorskip("plotly", reason=REPORT)
    pytest.importorskip("jinja2", reason=REPORT)
    template = page_template()
    template.globals["plotly"] = ""  # 5 MB that these tests need not read
    return Page(render_page(template, runs))


def test_results_are_a_table_with_numbers_on_the_right() -> None:
    page = render(run())
    assert page.table("results") == [
        ["Run", "Test accuracy", "Test loss", "Training accuracy", "Epochs", "Seconds", "ms an epoch", "Device"],
        ["● a-run", "0.8432", "0.5000", "0.9000", "1,100", "1,234.6", "12.34", "cpu"],
    ]
    assert len(page.all("td", class_="number")) == 6


def test_results_that_only_some_runs_have() -> None:
    other = {**RESULT, "validation_accuracy": 0.8, "best_epoch": 1040, "stopped": "no gain for 50 epochs"}
    older = {"experiment": "sgd", "device": "cuda", "test_accuracy": 0.7, "interrupted": True, "epochs": 5}
    header, *rows = render(run(), run(name="b", result=other), run(name="c", result=older)).table("results")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    assert columns["Validation accuracy"] == ["—", "0.8000", "—"]
    assert columns["Best epoch"] == ["—", "1,040", "—"]
    assert columns["Seconds"] == ["1,234.6", "1,234.6", "—"]
    assert columns["Ended early"] == ["—", "no gain for 50 epochs", "interrupted"]
    assert columns["Device"] == ["cpu", "cpu", "cuda"]


def test_settings_and_machine() -> None:
    page = render(run())
    assert page.table("Setting")[1:] == [
        ["experiment", "adam"], ["hidden", "64, 32"], ["optimizer", "adam"], ["learning rate", "0.02"],
        ["epochs", "20"], ["beta 1", "0.9"], ["seed", "3"], ["block rows", "—"], ["keep best", "yes"],
        ["data: source", "/images"], ["data: train rows", "400"],
    ]  # fmt: skip
    assert page.table("Machine")[1:] == [["device", "cpu"], ["threads", "2"], ["versions: numpy", "2.4.6"]]
    assert page.all("tr", class_="differs") == []


def test_settings_that_differ_are_highlighted() -> None:
    other = {**CONFIG, "seed": 4, "versions": {"numpy": "2.3"}, "precision": "float64"}
    page = render(run(), run(name="b", config=other), run(name="c"))
    differing = [" ".join(row.text.split()) for row in page.all("tr", class_="differs")]
    assert differing == ["seed 3 4 3", "precision — float64 —", "versions: numpy 2.4.6 2.3 2.4.6"]
    assert ["hidden", "64, 32"] in page.table("Setting")


def test_confusion_matrix() -> None:
    header, *rows = render(run(judgement=JUDGEMENT)).table("Confusion matrix of a-run")
    assert header[1:] == list(CLASSES)
    assert [row[0] for row in rows] == list(CLASSES)
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), JUDGEMENT.matrix)


def test_cells_are_coloured_by_the_share_of_their_class() -> None:
    page = render(run(judgement=JUDGEMENT))
    styles = [str(cell.attributes["style"]) for cell in page.all("td") if "style" in cell.attributes]
    shares = np.array([float(style.removeprefix("--share: ")) for style in styles]).reshape(10, 10)
    totals = JUDGEMENT.matrix.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, JUDGEMENT.matrix / np.maximum(totals, 1), atol=5e-4)
    assert len(page.all("td", class_="hit")) == 10


def test_runs_have_classes_of_their_own() -> None:
    letters = [*"ABCDEFGHIJKLM<"]
    matrix = np.eye(14, dtype=np.int64)
    of_letters = run(name="b", class_names=letters, judgement=Judgement(matrix, [Mistake(3, IMAGE, 13, 1, 0.5)]))
    page = render(run(judgement=JUDGEMENT), of_letters)
    header, *rows = page.table("Confusion matrix of b")
    assert header[1:] == letters
    assert [row[1:] for row in rows] == [["1" if n == label else "" for n in range(14)] for label in range(14)]
    assert page.table("Confusion matrix of a-run")[0][1:] == list(CLASSES)
    assert [table.attributes["class"] for table in page.all("table") if "class" in table.attributes] == [
        "matrix", "matrix many"
    ]  # fmt: skip
    assert page.all("figcaption")[-1].text == "<taken for B, 50.0%"


def test_mistakes_have_their_images() -> None:
    page = render(run(judgement=JUDGEMENT))
    (picture,) = page.all("img")
    np.testing.assert_array_equal(image(picture), IMAGE)
    assert picture.attributes["alt"] == "Test image 17, of class Shirt"
    (caption,) = page.all("figcaption")
    assert caption.text == "Shirttaken for T-shirt/top, 98.8%"


def test_weights_are_tiles() -> None:
    weights = np.zeros((784, 18))
    weights[0, 17] = -0.5
    weights[783, 17] = 0.25
    weights[3, :17] = 1.0
    (picture,) = render(run(weights=weights)).all("img")
    pixels = image(picture)
    assert pixels.shape == (2 * 29 - 1, 16 * 29 - 1, 4)
    tile = pixels[29 : 29 + 28, 29 : 29 + 28]  # of the last neuron, in the second row and column
    assert (pixels[..., 3] > 0).sum() == 19
    blue, green, red, alpha = (int(value) for value in tile[0, 0])
    assert blue > green > red
    assert alpha == 127
    blue, green, red, alpha = (int(value) for value in tile[27, 27])
    assert red > green > blue
    assert alpha == 63
    assert picture.attributes["alt"] == "18 neurons of a-run, each as an image of its 28 × 28 weights"


@pytest.mark.parametrize(("neurons", "said"), [(1, "1 neurons,"), (300, "The first 256 of 300 neurons,")])
def test_the_number_of_neurons_is_limited(neurons: int, said: str) -> None:
    page = render(run(weights=np.zeros((784, neurons))))
    assert page.all("figcaption")[0].text.startswith(said)
    assert image(page.all("img")[0]).shape[0] == 29 * -(-min(neurons, 256) // 16) - 1


def test_what_is_missing_is_said_and_left_out() -> None:
    page = render(run(notes=["No confusion matrix: it is lost"]))
    assert [note.text for note in page.all("p", class_="note") if "matrix" in note.text]
    titles = {title.text for title in page.all("h3")}
    assert not titles & {"Confusion matrix on the test images", "Most confident mistakes", "How to repeat it"}


def test_command_and_title() -> None:
    page = render(run(command="fmnist-xp train adam --data 'my images'"))
    assert page.all("pre")[0].text == "fmnist-xp train adam --data 'my images'"
    assert page.all("h1")[0].text == "a-run"
    assert any(p.text == "a title" for p in page.all("p"))
    assert render(run(), run(name="b")).all("h1")[0].text == "2 runs"


def test_gaps_in_the_curves_are_told() -> None:
    history = History([0, 10], [0.1, 0.5], [2.3, float("nan")], [0.02, 0.019], [0.01, 0.02])
    notes = render(run(history=history)).all("p", class_="note")
    assert "a-run: loss is not finite once, first at epoch 10" in [note.text for note in notes]


HOSTILE = "</script><script>alert(1)</script>\"'&\x1b\udc80{{ 7 * 7 }}"
SHOWN = "</script><script>alert(1)</script>\"'&\\x1b\\udc80{{ 7 * 7 }}"


def test_everything_is_escaped() -> None:
    config = {**CONFIG, HOSTILE: HOSTILE, "versions": {HOSTILE: [HOSTILE]}}
    config["experiment"] = {HOSTILE: HOSTILE}
    result = {**RESULT, "device": HOSTILE, "stopped": HOSTILE, "experiment": HOSTILE, "epoch_seconds": HOSTILE}
    texts = dict.fromkeys(("name", "title", "command"), HOSTILE)
    page = render(run(config=config, result=result, notes=[HOSTILE], **texts), run())
    assert len(page.all("script")) == 3
    assert page.all("h2")[3].text == f"● {SHOWN}"
    assert page.table("results")[1][-2:] == [SHOWN, SHOWN]
    assert [SHOWN, SHOWN, "—"] in page.table("Setting")
    assert [f"versions: {SHOWN}", SHOWN, "—"] in page.table("Machine")
    assert page.figure["data"][0]["name"].startswith("&lt;/script&gt;&lt;script&gt;")


def test_it_is_one_file_that_may_load_nothing() -> None:
    page = render(run(judgement=JUDGEMENT, weights=np.ones((784, 3))), run(name="b"))
    for element in page.elements:
        for name, value in element.attributes.items():
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert str(value).startswith(("data:image/png;base64,", "#")), (element.name, name)
    (policy,) = (e.attributes["content"] for e in page.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    assert "default-src 'none'" in str(policy)
    assert "http" not in str(policy)
    assert not re.search(r"url\(|@import", page.all("style")[0].text)


def test_it_can_be_read_by_all() -> None:
    page = render(run(judgement=JUDGEMENT, weights=np.ones((784, 3))), run(name="b"))
    assert page.all("html")[0].attributes["lang"] == "en"
    assert all(picture.attributes["alt"] for picture in page.all("img"))
    assert all("scope" in cell.attributes for cell in page.all("th"))
    regions = page.all("div", role="region")
    assert len(regions) == 4
    assert all(region.attributes["tabindex"] == "0" for region in regions)
    identities = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(set(identities)) == len(identities)
    links = {str(link.attributes["href"]) for link in page.all("a")}
    labelled = {f"#{e.attributes['aria-labelledby']}" for e in page.elements if "aria-labelledby" in e.attributes}
    assert links | labelled <= {f"#{identity}" for identity in identities}


def test_the_same_runs_give_the_same_page() -> None:
    runs = [run(judgement=JUDGEMENT, weights=np.ones((784, 3))), run(name="b")]
    render(*runs)
    assert render_page(page_template(), runs) == render_page(page_template(), runs)


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    hide(monkeypatch, missing)
    with pytest.raises(FmnistXpError, match=r'report needs Plotly and Jinja2 .*pip install "fmnist-xp\[report\]"'):
        page_template()
