"""What is not the program's: the machine's files, processes, secrets and sockets; names in braces are planted."""

from __future__ import annotations

from tests.jail.attacks import Attack, attempt

_CONNECT = "s = __import__('socket').socket({family}, {kind}); s.settimeout(1); "
_SEARCH = """
import glob
seen = False
for pattern in ("/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/task/*/environ"):
    for path in glob.glob(pattern):
        try:
            # Written apart, so as not to find this very text.
            seen = seen or b"{secret_a}" + b"{secret_b}" in open(path, "rb").read()
        except OSError:
            pass
print("through" if seen else "refused")
"""

PLACES = (
    attempt("a file of the host", "open('{canary}').read()", outside=True),
    attempt("write a file of the host", "open('{canary}', 'w').write('changed')"),
    attempt("a file of the host by a link", "os.symlink('{canary}', 'l'); open('l').read()"),
    attempt("a file of the host by a hard link", "os.link('{canary}', '/tmp/hard')"),
    attempt("a file of the host by process 1's root", "open('/proc/1/root{canary}').read()"),
    attempt("a file of the host by its own root", "open('/proc/self/root{canary}').read()", outside=True),
    attempt("the directory of it", "os.listdir(os.path.dirname('{canary}'))", outside=True),
    attempt("the root's home", "os.listdir('/root/.ssh')"),
    attempt("the passwords", "open('/etc/shadow').read()"),
    attempt("the run directory", "os.listdir('/run')", outside=True),
    attempt("the control groups", "os.listdir('/sys/fs/cgroup')", outside=True),
    attempt("the machine's memory", "open('/dev/mem', 'rb')"),
    attempt("the virtual machine monitor", "open('/dev/kvm', 'rb')"),
    attempt("the machine's disks", "open('/dev/vda', 'rb')"),
    attempt("process 1's memory", "open('/proc/1/mem', 'rb')"),
    attempt("process 1's environment", "open('/proc/1/environ').read()"),
    attempt("process 1's files", "os.listdir('/proc/1/fd')"),
    attempt("a setting of the kernel", "open('/proc/sys/kernel/hostname', 'w')"),
    attempt("sysrq", "open('/proc/sysrq-trigger', 'w')"),
    attempt("the interpreter's files", "open(os.__file__, 'a')"),
    attempt("the system's files", "open('/usr/bin/env', 'a')"),
    attempt("the root directory", "open('/x', 'w')", "read_only", "landlock", "identity"),
    attempt("a directory in /etc", "os.mkdir('/etc/x')", "read_only", "landlock", "identity"),
    attempt("a new file among the devices", "open('/dev/x', 'w')", "read_only", "landlock", "identity"),
    attempt("another program by its number", "os.kill({pid}, 0)", outside=True),
    Attack("a secret in some environment or command line", _SEARCH, outside=True),
    attempt(
        "TCP on the host",
        _CONNECT.format(family=2, kind=1) + "s.connect(('127.0.0.1', {tcp}))",
        "network",
        outside=True,
    ),
    attempt(
        "UDP on the host",
        _CONNECT.format(family=2, kind=2) + "s.sendto(b'x', ('127.0.0.1', {udp})); s.recv(1)",
        "network",
        outside=True,
    ),
    attempt(
        "an abstract socket of the host",
        _CONNECT.format(family=1, kind=1) + "s.connect('\\0{abstract}')",
        "network",
        "landlock",
        outside=True,
    ),
    attempt("a socket file of the host", _CONNECT.format(family=1, kind=1) + "s.connect('{socket}')", outside=True),
)
