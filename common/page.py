"""HTML pages: one file each, which loads nothing from elsewhere and runs no script."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def html_page(template: Path, **values: Any) -> str:
    """The page that a template makes of `values`, all of which it escapes.

    Args:
        template: a Jinja2 file that extends `page.html.j2`, which needs a `title`; `table.html.j2` has the tables.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline_png"] = _inline_png
    return environment.get_template(template.name).render(values)


def _inline_png(content: bytes) -> str:
    """The source of an image that lies within the page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
