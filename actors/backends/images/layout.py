"""What a Python environment consists of, told by its own Python: ``python -I layout.py`` prints it as JSON.

Standard library only, and nothing of this package: it runs where that is not installed.
"""

from __future__ import annotations

import json
import os
import re
import site
import sys
import sysconfig
from importlib import metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def layout() -> dict[str, Any]:
    """Where this Python is and finds its modules, and the directories that hold all of that."""
    return {"python": sys.executable, "version": sys.version, "sys_path": search_path(), "prefixes": prefixes()}


def search_path() -> list[str]:
    """Where the standard library and packages are; neither the working directory nor anything from the environment."""
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")]
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        packages.append(site.getusersitepackages())
    found = [*standard, *packages]
    return [path for path in dict.fromkeys(found) if path and os.path.isdir(path)]


def prefixes() -> list[str]:
    """Directories to show inside at their own paths, outermost first; /usr is there anyway."""
    wanted = {os.path.realpath(path) for path in (sys.base_prefix, *search_path())} | {sys.prefix}
    wanted |= {os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))}
    kept: list[str] = []
    for path in sorted(wanted, key=len):
        if not any(path == other or path.startswith(f"{other}/") for other in ("/usr", *kept)) and path != "/":
            kept.append(path)
    return kept


def versions() -> dict[str, str]:
    """Every package's version, by its name as indexes compare them."""
    found = ((dist.metadata["Name"], dist.version) for dist in metadata.distributions())
    return dict(sorted((_canonical(name), version) for name, version in found if name))


def modules() -> dict[str, list[str]]:
    """What each package is imported as."""
    found: dict[str, list[str]] = {}
    for module, packages in metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for package in packages:
                names = found.setdefault(_canonical(package), [])
                if module not in names:
                    names.append(module)
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print(json.dumps({"layout": layout(), "versions": versions(), "modules": modules()}))
