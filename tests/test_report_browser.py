"""The report as people see it, in headless Chromium, from disk and served."""

import json
from contextlib import contextmanager
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from dataset.scans.volume_io import write_ct
from evaluation.report.page import write_report
from evaluation.report.volumes import choose, embed, real_path
from evaluation.serve import server_of
from tests.browser import CHROMIUM, Browser
from tests.test_report import findings_of, metrics_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)"),
]
NAMES = ["p<1>", "p2", "p3"]
AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of three cases: a ball of soft tissue in air, drawn too small."""
    folder = tmp_path_factory.mktemp("browser") / "ev"
    folder.mkdir()
    rng, axis = np.random.default_rng(0), np.linspace(-1, 1, 40)
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    real, drawn = (np.where(radius < r, 60, -1000) + rng.normal(0, 20, radius.shape) for r in (0.8, 0.6))
    choose(folder, NAMES)
    for name in NAMES:
        pair = [np.round(hu).astype(np.int16) for hu in (real, drawn)]
        embed(folder, name, pair, AFFINE, 1_000_000)
        write_ct(real_path(folder, name), pair[0], AFFINE)
        write_ct(folder / "volumes" / f"{name}.nii.gz", pair[1], AFFINE)
        Image.new("L", (600, 400), 128).save(folder / f"{name}.png")
    numbers = [
        {"psnr": value, "ssim": 0.5, "more": value / 7, **dict.fromkeys("abcdefg", 1.0)} for value in (9.5, 30.25, 18)
    ]
    (folder / "metrics.json").write_text(json.dumps(metrics_of(findings_of(5), numbers)))
    write_report(folder)
    return folder


@contextmanager
def address_of(folder, served):
    if not served:
        yield (folder / "report.html").as_uri(), folder.as_uri()
        return
    with server_of(folder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/report.html", f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def grey_of(browser, canvas, path):
    """What a canvas shows, as (h, w) of 0..255."""
    box = json.loads(browser.run(f"JSON.stringify(document.getElementById('{canvas}').getBoundingClientRect())"))
    browser.picture(path)
    with Image.open(path) as picture:
        corners = (box["left"], max(0, box["top"]), box["right"], min(picture.height, box["bottom"]))
        return np.asarray(picture.convert("L").crop(tuple(map(round, corners)))).astype(int)


@pytest.fixture(scope="module", params=[False, True], ids=["from disk", "served"])
def seen(request, folder, tmp_path_factory):
    """The browser with the report open, and where it lies."""
    profile = tmp_path_factory.mktemp("profile") / "chromium"
    with address_of(folder, request.param) as (address, root), Browser(profile) as browser:
        browser.open(address)
        browser.wait_for("document.body.dataset.viewer === 'ready'")
        yield browser, root, request.param
        assert [url for url in browser.requests if not url.startswith((root, "data:", "blob:"))] == []
        assert browser.errors == []


def test_the_viewer_shows_both_volumes_and_a_preset_changes_what_is_seen(seen, tmp_path):
    browser, _, _ = seen
    browser.run("document.getElementById('look').scrollIntoView()")
    shown = {}
    for i, window in enumerate(("lung", "mediastinal", "ctpa")):
        browser.run(f"document.querySelectorAll('input[name=window]')[{i}].click()")
        shown[window] = {key: grey_of(browser, key, tmp_path / "shot.png") for key in ("real", "generated")}
    for pair in shown.values():
        assert all((grey > 60).sum() > 2000 for grey in pair.values())
        assert (pair["real"] > 60).sum() > 1.3 * (pair["generated"] > 60).sum()  # drawn too small
    assert np.abs(shown["lung"]["real"] - shown["ctpa"]["real"]).mean() > 5
    before = shown["ctpa"]["generated"]
    browser.run("{const d = document.getElementById('difference'); d.value = 1; d.dispatchEvent(new Event('input'))}")
    assert np.abs(grey_of(browser, "generated", tmp_path / "shot.png") - before).mean() > 1


def test_both_crosshairs_move_together_by_keys(seen, tmp_path):
    browser, _, _ = seen
    browser.run("document.getElementById('look').scrollIntoView()")
    before = grey_of(browser, "generated", tmp_path / "shot.png")
    browser.run("document.getElementById('real').focus()")
    for _ in range(9):
        browser.press("ArrowUp")
    browser.wait_for("document.getElementById('place').textContent.includes('real')")
    assert np.abs(grey_of(browser, "generated", tmp_path / "shot.png") - before).mean() > 0.1


def test_another_case_can_be_looked_at_and_full_size_when_served(seen, tmp_path):
    browser, _, served = seen
    change = "{const c = document.getElementById('case'); c.value = 'p2'; c.dispatchEvent(new Event('change'))}"
    browser.run(change)
    browser.wait_for("Object.keys(embedded).length === 2")
    assert browser.run("document.getElementById('full').hidden") is not served
    if served:
        browser.run("document.getElementById('full').click()")
        browser.wait_for("document.getElementById('place').textContent === 'full size'")
        browser.run("document.getElementById('look').scrollIntoView()")
        for key in ("real", "generated"):
            assert (grey_of(browser, key, tmp_path / "shot.png") > 40).sum() > 2000


def test_cases_sort_by_any_column_and_the_keyboard_reaches_everything(seen):
    browser, _, _ = seen
    names = "[...document.querySelectorAll('#cases tbody tr')].map(row => row.cells[0].textContent.trim()).join()"
    assert browser.run(names) == "p<1>,p2,p3"
    browser.run("document.querySelectorAll('#cases button.sort')[1].focus()")
    browser.press("Enter")
    assert browser.run(names) == "p<1>,p3,p2"
    browser.press("Enter")
    assert browser.run(names) == "p2,p3,p<1>"
    assert (
        browser.run("document.querySelector('#cases th[aria-sort=descending]').textContent").strip().startswith("psnr")
    )
    choose = "c.value = c.options[1].value; c.dispatchEvent(new Event('change'))"
    browser.run(f"{{const c = document.getElementById('column'); {choose}}}")
    visible = "[...document.querySelectorAll('#cases thead th')].filter(th => !th.hidden).length"
    assert browser.run(visible) == 1 + 7
    reach = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
    browser.run("document.activeElement.blur(); document.querySelector('.term').focus()")
    reached = set()
    for _ in range(60):
        browser.press("Tab")
        reached.add(browser.run(reach))
    assert {"term", "case", "difference", "real", "generated", "sort", "SUMMARY"} <= reached


def test_a_numbers_definition_is_one_click_away(seen):
    browser, _, _ = seen
    browser.run("document.querySelector('button.term').focus()")
    browser.press("Enter")
    said = browser.run("document.querySelector('[popover]:popover-open').textContent")
    assert "Peak signal-to-noise ratio" in said
    assert "-1000 to 1000 HU" in said
    browser.run("document.querySelector('[popover]:popover-open').hidePopover()")


def test_a_link_opens_a_cases_pictures_and_nothing_is_wider_than_the_window(seen):
    browser, _, _ = seen
    browser.run("document.querySelectorAll('details').forEach(d => d.open = false)")
    browser.run("document.querySelector('#cases tbody a').click()")
    browser.wait_for("document.querySelectorAll('details.case[open]').length === 1")
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)")
    browser.wait_for("[...document.images].every(image => { image.loading = 'eager'; return image.naturalWidth > 0 })")
