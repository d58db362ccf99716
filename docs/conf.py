"""How the site is built, by `make docs`.

myst-nb, because the pages are Markdown and the tutorial is a notebook, and one parser reads both;
furo, because its pages read well on a phone, are searched and printed without a server.
"""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ |= {"NO_COLOR": "1", "COLUMNS": "88"}  # of the help texts

project = "codi_patching"
author = "the authors of codi_patching"
project_copyright = author
version = release = installed("codi_patching")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_pages",
]
exclude_patterns = ["_build", "**/tables"]
html_theme = "furo"
html_title = f"codi_patching {release}"
html_extra_path = ["_build/extra"]
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

# The notebook's outputs are kept in it; a test of the suite runs it and compares them.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["myst.header"]  # reports begin at the second level, as parts of a journal do

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Value": "Value"}
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpicky = True
nitpick_ignore_regex = [
    # Types of other packages, whose sites cannot be reached while this one is built, and private
    # or internal names that are no page of it.
    (r"py:.*", r"(?!codi_patching\.(api|saved_results)\b).*"),
]
linkcheck_ignore = [r"http://localhost.*"]
