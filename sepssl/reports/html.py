"""The templates of HTML pages."""

import jinja2

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("sepssl.reports"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
