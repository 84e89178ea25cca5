from __future__ import annotations

import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dashboards.pictures import write_pictures
from dashboards.report import report_figures
from objectives.errors import RequestError
from tests.dashboards import documents

needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")


@needs_chromium
def test_every_figure_is_a_picture_in_both_forms_and_as_high_as_it_is(tmp_path: Path) -> None:
    document, folder = documents.many_groups(), tmp_path / "new"
    files = write_pictures(document, folder)
    names = {path.name for path in files}
    assert names == {f"{name}.{form}" for name in report_figures(document) for form in ("svg", "png")}
    heights = {path.stem: int(ElementTree.parse(path).getroot().get("height", "")) for path in folder.glob("*.svg")}
    assert (heights["front"], heights["effects"]) == (560, 70 * 24 + 120)
    drawn = (folder / "front.svg").read_text()
    assert ElementTree.fromstring(drawn).get("width") == "900"
    assert "recommended" in drawn and "TPOT ratio" in drawn
    header = (folder / "front.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20]) == 1800


@needs_chromium
def test_a_folder_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot be written"):
        write_pictures(documents.document(), tmp_path / "file" / "below")


def test_without_kaleido_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(RequestError, match=r"pip install 'lora-target-search\[figures\]'"):
        write_pictures(documents.document(), tmp_path)
