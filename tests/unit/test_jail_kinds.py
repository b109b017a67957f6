"""Which programs get an interpreter with the packages already imported."""

from __future__ import annotations

import pytest

from actors.backends.jail.kinds import LEAN, LOADED, suited

PRELOADED = frozenset({"numpy", "pandas", "matplotlib"})


@pytest.mark.parametrize(
    "code",
    [
        "",
        "print(1 + 1)",
        "import os, sys, json as j",
        "from collections import (\n    Counter,\n    defaultdict,\n)",
        "import xml.etree.ElementTree as ET",
        "def f():\n    from math import sqrt\n    return sqrt(2)",
        "text = 'import antigravity, this'",
        "import os; import re",
        "x = 'from here to there'",
        "%time 1",
    ],
)
def test_a_program_of_pythons_own_modules_is_lean(code: str) -> None:
    assert suited(code, PRELOADED) == LEAN


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np",
        "from pandas import DataFrame",
        "import os, numpy",
        "    import matplotlib.pyplot as plt",
        "__import__('numpy')",
        "import importlib\nimportlib.import_module('pandas')",
        "%matplotlib inline",
        "import sklearn",
        "from helper import solve",
        "import os; import numpy",
    ],
)
def test_a_program_that_names_a_package_is_loaded(code: str) -> None:
    assert suited(code, PRELOADED) == LOADED


def test_without_preloaded_packages_only_foreign_imports_count() -> None:
    assert suited("numpy = 1", frozenset()) == LEAN
    assert suited("import numpy", frozenset()) == LOADED
