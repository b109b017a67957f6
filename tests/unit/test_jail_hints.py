"""What is said when a jail cannot be built."""

from __future__ import annotations

import pytest

from actors.backends.jail.host import hints


@pytest.mark.parametrize(
    ("files", "failure", "cause"),
    [
        ({"/proc/sys/user/max_user_namespaces": "0"}, "", "switched off"),
        ({"/proc/sys/kernel/unprivileged_userns_clone": "0"}, "", "ordinary users"),
        (
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            "bwrap: setting up uid map: Permission denied",
            "AppArmor",
        ),
        (
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
            "AppArmor",
        ),
        ({}, "bwrap: No permissions to create new namespace, likely because …", "seccomp"),
        ({}, "bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "masked"),
        ({}, "PermissionError: mount /proc: Operation not permitted", "masked"),
        ({}, "something new", "something new"),
    ],
)
def test_each_failure_is_explained_with_a_hint(files: dict[str, str], failure: str, cause: str) -> None:
    said, hint = hints.explain(failure, files.get)
    assert cause in said
    assert hint
