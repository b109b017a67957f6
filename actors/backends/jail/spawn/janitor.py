"""The janitor of a jail server: it waits for the server to end, however it does, and removes its address.

It keeps the rights of the host, since a jail server that root has started could not remove anything of root's.
"""

from __future__ import annotations

import os
import select
import time

from actors.backends.jail import address, process_names

SWEEP_S = 5.0
"""How long it tries while others are at the addresses; who starts a jail server later sweeps too."""
PAUSE_S = 0.02


def wait_and_sweep(server: int, directory: int) -> None:
    """Wait for the process of a pidfd, in a process that holds nothing else, then sweep the directory of addresses."""
    os.setsid()
    os.chdir("/")
    with open("/proc/self/comm", "w") as name:
        name.write(process_names.JANITOR)
    _close_all_but({server, directory})
    select.select([server], [], [])
    deadline = time.monotonic() + SWEEP_S
    while time.monotonic() < deadline:
        try:
            address.sweep(directory)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            break


def _close_all_but(kept: set[int]) -> None:
    """Close the rest: the server's listening socket above all, at which nobody would seem to have stopped listening."""
    for entry in os.listdir("/proc/self/fd"):
        if (descriptor := int(entry)) > 2 and descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:  # the one that listed them
                continue
