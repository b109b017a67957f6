"""The argument list of bubblewrap: the policy of a jail."""

from __future__ import annotations

from pathlib import Path

WORKSPACE = "/home/user"
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "ssl/certs", "localtime", "mime.types")
_DEVICES = ("null", "zero", "full", "random", "urandom")
PASSWD = "root:x:0:0::/root:/bin/false\nuser:x:1000:1000::/home/user:/bin/bash\n"
GROUP = "root:x:0:\nuser:x:1000:\n"


def argv(binary: str, prefixes: list[str], info_fd: int, build_tag_fd: int, passwd_fd: int, group_fd: int) -> list[str]:
    """A jail with nothing of this machine in it but read-only programs and libraries."""
    arguments = [
        binary, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
        "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--info-fd", str(info_fd),
        "--proc", "/proc", "--tmpfs", "/dev",
    ]  # fmt: skip
    # Not --dev: its devpts would need a second user namespace, whose owner could not fork into new pid namespaces.
    for device in _DEVICES:
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        arguments += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{stream}"]
    arguments += ["--symlink", "/proc/self/fd", "/dev/fd"]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            arguments += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            arguments += ["--ro-bind", path, path]
    for name in _ETC:
        if Path("/etc", name).exists():
            arguments += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    for path in prefixes:
        arguments += ["--ro-bind", path, path]
    arguments += [
        "--perms", "0444", "--file", str(passwd_fd), "/etc/passwd",
        "--perms", "0444", "--file", str(group_fd), "/etc/group",
        "--perms", "0444", "--file", str(build_tag_fd), "/etc/build-tag",
        "--dir", WORKSPACE, "--dir", "/tmp", "--dir", "/dev/shm",
        "--remount-ro", "/dev", "--remount-ro", "/",
        "--chdir", "/", "--", "/bin/cat",
    ]  # fmt: skip
    return arguments
