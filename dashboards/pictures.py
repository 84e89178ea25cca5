"""The figures of the report as files for papers and slides: SVG, and PNG at twice the size."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dashboards.report import report_figures
from objectives.errors import RequestError

_WIDTH, _HEIGHT = 900, 560


def write_pictures(document: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the figures of the report into the folder, which is made; returns the files.

    Raises RequestError where kaleido or the browser that it draws with is missing, or the folder refuses.
    """
    if find_spec("kaleido") is None:  # plotly's own message names another command
        raise RequestError("--figures needs kaleido, which draws them: pip install 'lora-target-search[figures]'")
    from plotly.io import write_images

    figures = report_figures(document)
    for figure in figures.values():
        figure.update_layout(paper_bgcolor="white", margin={"l": 16, "r": 16, "b": 16})
    files = {name: [folder / f"{name}.svg", folder / f"{name}.png"] for name in figures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_images(
            fig=[figure for name, figure in figures.items() for _ in files[name]],
            file=[path for paths in files.values() for path in paths],
            width=_WIDTH,
            height=[max(_HEIGHT, figure.layout.height or 0) for name, figure in figures.items() for _ in files[name]],
            scale=[1, 2] * len(figures),
        )
    except OSError as error:
        raise RequestError(f"--figures {folder} cannot be written ({error.strerror}): choose another folder") from error
    except RuntimeError as error:  # plotly's, where no browser is found
        raise RequestError(
            "--figures needs Chrome or Chromium to draw with, and found none: install one, or name it in BROWSER_PATH"
        ) from error
    return [path for paths in files.values() for path in paths]
