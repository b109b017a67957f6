"""Hints for errors whose reason a program cannot know, since it lies in how the program was run.

Runs in interpreters, when a program fails.
"""

from __future__ import annotations

import sys

_PACKAGES = {
    "Bio": "biopython",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages that have another name than the module that they bring, by the module."""


def on(error: BaseException, add_package: str) -> str | None:
    """Return the hint to put below a traceback, if there is one; ``add_package`` says how to add a package."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        if module in sys.modules or module in sys.stdlib_module_names:
            return None  # it is there, but has no such part
        package = _PACKAGES.get(module, module)
        return f"This sandbox has no package {package!r}. To add it, {add_package.replace('{package}', package)}"
    if isinstance(error, EOFError) and error.args == ("EOF when reading a line",):
        return "There is nothing (more) on standard input: give the run what input() is to read, as stdin=…"
    return None
