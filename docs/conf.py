"""How the documentation is built."""

from importlib import metadata

from twdm_async.sandbox.openapi import OPERATIONS

project = "twdm_async"
copyright = "The twdm_async authors"  # noqa: A001 - Sphinx wants this name
release = metadata.version("twdm_async")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"twdm_async {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
myst_heading_anchors = 3
myst_enable_extensions = ["substitution"]
myst_substitutions = {
    "sandbox_api": "\n".join(
        [
            "| call | what it does |",
            "|---|---|",
            *(f"| `{operation.method} {operation.path}` | {operation.summary} |" for operation in OPERATIONS),
        ]
    )
}
