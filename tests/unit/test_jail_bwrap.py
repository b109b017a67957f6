"""The walls of a jail, as bubblewrap is told to build them."""

from __future__ import annotations

from actors.backends.jail.kernel import bwrap


def words(prefixes: list[str] | None = None) -> list[str]:
    return list(
        bwrap.walls("/usr/bin/bwrap", prefixes or ["/opt/python"], {"/opt/a": "/b"}, [], "tag", 1000, 1000).arguments
    )


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


def test_links_lead_to_what_is_at_other_paths() -> None:
    line = words()
    assert line[line.index("/opt/a") - 2 : line.index("/opt/a") + 1] == ["--symlink", "/b", "/opt/a"]


def test_what_is_above_a_link_is_open_to_every_id() -> None:
    line = words()
    above = line.index("/opt", 0, line.index("/opt/a"))
    assert line[above - 3 : above] == ["--perms", "0755", "--dir"]
