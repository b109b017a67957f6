"""What the jail is made of, and what is said when it cannot be made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.backends.jail.host import hints, image, self_test
from actors.backends.jail.kernel import bwrap
from actors.config import ImageSettings, JailSettings
from actors.errors import IsolationUnavailable


def words(prefixes: list[str] | None = None) -> list[str]:
    return list(bwrap.walls("/usr/bin/bwrap", prefixes or ["/opt/python"], "tag", 1000, 1000).arguments)


def test_every_namespace_but_the_network_which_runs_renew_is_new_and_the_environment_empty() -> None:
    namespaces = {f"--unshare-{name}" for name in ("user", "pid", "ipc", "uts", "cgroup")}
    assert namespaces | {"--die-with-parent", "--new-session", "--clearenv"} <= set(words())


def test_nothing_of_the_machine_is_writable() -> None:
    line = words()
    assert not {"--bind", "--dev-bind", "--bind-try", "--share-net"} & set(line)
    assert [line[index + 1] for index, word in enumerate(line) if word == "--remount-ro"] == ["/dev", "/"]


def test_every_temporary_file_system_is_bounded() -> None:
    line = words()
    for index, word in enumerate(line):
        if word == "--tmpfs":
            assert line[index - 2] == "--size"


def test_the_places_to_write_are_private() -> None:
    line = words()
    made = {line[index + 1] for index, word in enumerate(line) if word == "--tmpfs"}
    assert set(bwrap.PRIVATE) <= made


def test_prefixes_are_shown_at_their_own_paths() -> None:
    line = words(["/opt/a", "/srv/b"])
    shown = [line[index + 1 : index + 3] for index, word in enumerate(line) if word == "--ro-bind"]
    assert ["/opt/a", "/opt/a"] in shown
    assert ["/srv/b", "/srv/b"] in shown


def test_no_secret_is_among_the_words_or_files() -> None:
    config = json.dumps(image.describe(JailSettings(), ImageSettings()))
    assert "API_KEY" not in config
    assert str(Path.home() / ".ssh") not in " ".join(words(image.describe(JailSettings(), ImageSettings())["prefixes"]))


def test_the_build_tag_names_the_packages() -> None:
    def tag(*preload: str) -> str:
        return image.build_tag(JailSettings(preload=preload), ImageSettings())

    assert tag("numpy") == tag("numpy")
    assert tag("numpy") != tag("numpy", "pandas")


def test_an_image_is_named_once_since_every_new_jail_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = JailSettings(preload=("numpy", "scipy"))
    first = image.build_tag(settings, ImageSettings())
    monkeypatch.setattr(image, "_version", lambda _: pytest.fail("looked up again"))
    assert image.build_tag(settings, ImageSettings()) == first


def test_another_configuration_is_another_server() -> None:
    one, other = (
        image.describe(JailSettings(), ImageSettings()),
        image.describe(JailSettings(preload=("json",)), ImageSettings()),
    )
    assert image.fingerprint(one) == image.fingerprint(dict(one))
    assert image.fingerprint(one) != image.fingerprint(other)


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
def test_each_failure_is_explained_with_a_remedy(files: dict[str, str], failure: str, cause: str) -> None:
    said, remedy = hints.explain(failure, files.get)
    assert cause in said
    assert remedy


GOOD = {
    **dict.fromkeys(self_test.MUST_RAISE, "OSError"),
    "processes": 2,
    "capabilities": "0000000000000000",
}


def test_a_jail_whose_every_wall_held_is_trusted() -> None:
    self_test.require(self_test.judge(GOOD))


@pytest.mark.parametrize(
    "broken",
    [*({name: "succeeded"} for name in GOOD if GOOD[name] == "OSError"), {"processes": 80}, {"capabilities": "a"}],
)
def test_one_broken_wall_is_enough_to_refuse(broken: dict[str, object]) -> None:
    with pytest.raises(IsolationUnavailable, match=next(iter(broken))):
        self_test.require(self_test.judge({**GOOD, **broken}))


def test_a_wall_that_is_left_out_on_purpose_is_excused_and_no_other() -> None:
    open_network = self_test.judge({**GOOD, "tcp": "connected"})
    self_test.require(open_network, without=("network",))
    with pytest.raises(IsolationUnavailable, match="tcp"):
        self_test.require(open_network, without=("seccomp",))
