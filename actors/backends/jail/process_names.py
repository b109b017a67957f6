"""The names by which ``ps`` and ``top`` show the jail's own processes, and by which sweepers and tests know them."""

from __future__ import annotations

SERVER = "jail-server"
JANITOR = "jail-janitor"
SHIM = "jail-shim"
FORK_SERVER = "jail-forkserver"
INIT = "jail-init"
PREFORKED = "jail-prefork"
"""A future shim or fork server that waits for its request."""
BUILDERS = frozenset({SERVER, SHIM, PREFORKED})
"""The processes that start bwrap."""
WALLS = "jail-walls-"
"""What the names of bwrap's processes begin with; the pid of the builder follows."""


def zygote(kind: str) -> str:
    """Return the name of the zygote of one kind of interpreter."""
    return f"zygote-{kind}"


def walls(builder: int) -> str:
    """Return the name of a bwrap that the process of this pid has started."""
    return f"{WALLS}{builder}"
