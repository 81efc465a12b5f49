"""How the documentation is built."""

from importlib import metadata

from pygments.lexers.python import PythonLexer
from sphinx.highlighting import lexers

from twdm_async.sandbox.openapi import OPERATIONS

lexers["ipython"] = PythonLexer()  # cells of a notebook
project = "twdm_async"
copyright = "The twdm_async authors"  # noqa: A001 - Sphinx wants this name
release = metadata.version("twdm_async")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_llm.txt",  # llms.txt, and each page as Markdown
]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
llms_txt_description = "An asyncio SDK: many agents of a brand send Twitter/X Direct Messages under custom profiles."
llms_txt_suppress_unknown_node_warnings = ["abbreviation"]  # the * in a signature
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
