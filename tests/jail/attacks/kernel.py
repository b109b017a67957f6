"""The kernel's rarely used doors: system calls by number, x86_64 and aarch64, and sockets of odd kinds."""

from __future__ import annotations

from tests.jail.attacks import attempt

_SOCKET = "__import__('socket').socket"
_IOCTL = "__import__('fcntl').ioctl"
_FILTER = "code = ctypes.create_string_buffer(bytes.fromhex('060000000000ff7f')); "
_ONE_FILTER = "__import__('struct').pack('HxxxxxxP', 1, ctypes.addressof(code))"
"""A filter of one instruction, which allows all."""

KERNEL = (
    attempt("unshare a user namespace", "call(272, 97, 0x10000000)", "seccomp"),
    attempt(
        "clone into a user namespace", "call(56, 220, 0x10000000 | 17, 0, 0, 0, 0) == 0 and os._exit(0)", "seccomp"
    ),
    attempt("mount", "call(165, 40, b'none', b'/tmp', b'tmpfs', 0, 0)", "seccomp", "capabilities", "landlock"),
    attempt("unmount", "call(166, 39, b'/proc', 2)", "seccomp", "capabilities", "landlock"),
    attempt("pivot_root", "call(155, 41, b'/tmp', b'/tmp')", "seccomp", "capabilities", "landlock"),
    attempt("chroot", "call(161, 51, b'/tmp')", "seccomp", "capabilities"),
    attempt("open_tree", "call(428, 428, -100, b'/', 0)", "seccomp"),
    attempt("fsopen", "call(430, 430, b'tmpfs', 0)", "seccomp", "capabilities"),
    attempt("process_vm_readv", "call(310, 270, os.getpid(), 0, 0, 0, 0, 0)", "seccomp"),
    attempt("io_uring", "call(425, 425, 1, ctypes.create_string_buffer(200))", "seccomp"),
    attempt("keyctl", "call(250, 219, 0, -3, 0)", "seccomp"),
    attempt("add_key", "call(248, 217, b'user', b'x', b'y', 1, -3)", "seccomp"),
    attempt("memory behind a descriptor", "call(319, 279, b'x', 0)", "seccomp"),
    attempt("secret memory", "call(447, 447, 0)", "seccomp"),
    attempt("System V shared memory", "call(29, 194, 0, 4096, 0o1600)", "seccomp"),
    attempt("personality", "call(135, 92, 0x0040000)", "seccomp"),
    attempt(
        "a file by its handle",
        "call(303, 264, -100, b'/', ctypes.create_string_buffer(b'\\x80' + bytes(140)), (ctypes.c_int * 1)(), 0)",
        "seccomp",
        "read_only",
    ),
    attempt("vsock, the way to the host of a virtual machine", f"{_SOCKET}(40, 1)", "seccomp"),
    attempt("netlink", f"{_SOCKET}(16, 3)", "seccomp"),
    attempt("multipath TCP", f"{_SOCKET}(2, 1, 262)", "seccomp"),
    attempt("UDP-Lite", f"{_SOCKET}(2, 2, 136)", "seccomp"),
    attempt("raw packets", f"{_SOCKET}(17, 3)", "seccomp", "capabilities"),
    attempt("raw internet", f"{_SOCKET}(2, 3, 1)", "seccomp", "capabilities"),
    attempt("raw UDP", f"{_SOCKET}(2, 3, 17)", "seccomp", "capabilities"),
    attempt("a port of the system's", f"{_SOCKET}().bind(('127.0.0.1', 80))", "capabilities"),
    attempt("take an interface down", f"{_IOCTL}({_SOCKET}(), 0x8914, b'lo' + bytes(30))", "seccomp", "capabilities"),
    attempt("a setting of the network", "open('/proc/sys/net/core/somaxconn', 'w').write('9')", "capabilities"),
    # What the kernel counts by account or by machine, or not at all.
    attempt("a filter on a socket", f"{_FILTER}{_SOCKET}(2, 2).setsockopt(1, 26, {_ONE_FILTER})", "seccomp"),
    attempt(
        "a filter on the sockets of a port",
        f"{_FILTER}s = {_SOCKET}(2, 2); s.setsockopt(1, 15, 1); s.setsockopt(1, 51, {_ONE_FILTER})",
        "seccomp",
    ),
    attempt("a filter of system calls", f"{_FILTER}call(317, 277, 1, 0, {_ONE_FILTER})", "seccomp"),
    attempt("a filter of system calls by prctl", f"{_FILTER}call(157, 167, 22, 2, {_ONE_FILTER})", "seccomp"),
    attempt("a socket that lingers", f"{_SOCKET}().setsockopt(1, 13, bytes([1, 0, 0, 0, 9, 0, 0, 0]))", "seccomp"),
    attempt("time stamps on every packet", f"{_SOCKET}().setsockopt(1, 29, 1)", "seccomp"),
    attempt("packets without a copy", f"{_SOCKET}().setsockopt(1, 60, 1)", "seccomp"),
    attempt(
        "a group of receivers", f"{_SOCKET}(2, 2).setsockopt(0, 35, bytes([224, 0, 0, 9, 127, 0, 0, 1]))", "seccomp"
    ),
    attempt("an asynchronous context", "call(206, 0, 8, ctypes.byref(ctypes.c_ulong()))", "seccomp"),
    attempt("a queue of messages", "call(240, 180, b'q', 0o102, 0o600, 0)"),
    attempt("System V semaphores", "call(64, 190, 0, 1000, 0o1600)", "seccomp"),
    attempt("a System V queue", "call(68, 186, 0, 0o1600)", "seccomp"),
    attempt("a large pipe", "__import__('fcntl').fcntl(os.pipe()[1], 1031, 2**20)", "seccomp"),
    attempt("a lease on a file", "open('f', 'w'); __import__('fcntl').fcntl(os.open('f', 0), 1024, 0)", "seccomp"),
    attempt("notices of a directory", "__import__('fcntl').fcntl(os.open('.', 0), 1026, 4)", "seccomp"),
    attempt("an attribute of a file", "open('f', 'w'); os.setxattr('f', 'user.x', b'y')", "seccomp"),
    attempt("pages kept in a pipe", "call(278, 75, os.pipe()[1], (ctypes.c_void_p * 2)(id(os), 8), 1, 0)", "seccomp"),
    attempt("rules of access", "call(444, 444, (ctypes.c_uint64 * 1)(2), 8, 0)", "seccomp"),
    attempt(
        "which pages of a file are in memory",
        "call(451, 451, os.open('f', os.O_CREAT | os.O_RDWR), bytes(16), ctypes.create_string_buffer(40), 0)",
        "seccomp",
    ),
    attempt("another driver of a terminal", f"{_IOCTL}(os.openpty()[1], 0x5423, bytes(4))", "seccomp"),
    attempt("another way of scheduling", "os.sched_setscheduler(0, 3, os.sched_param(0))", "seccomp"),
    # From here on the kernel refuses by itself whoever is in a user namespace, or the door is not built into it.
    attempt("setns", "call(308, 268, 0, 0)"),
    attempt("clone3", "call(435, 435, 0, 0)"),
    attempt("remount", "call(165, 40, b'', b'/', b'', 32, 0)"),
    attempt("ptrace", "call(101, 117, 16, 1, 0, 0)"),
    attempt("compare with process 1", "call(312, 272, 1, os.getpid(), 0, 0, 0)"),
    attempt("bpf", "call(321, 280, 0, 0, 0)"),
    attempt("perf_event_open", "call(298, 241, 0, 0, -1, -1, 0)"),
    attempt("userfaultfd", "call(323, 282, 0)"),
    attempt("another's descriptor", "call(438, 438, 0, 0, 0)"),
    attempt("reboot", "call(169, 142, 0xfee1dead, 672274793, 0, 0)"),
    attempt("sethostname", "call(170, 161, b'x', 1)"),
    attempt("the clock", "__import__('time').clock_settime(0, 0)"),
    attempt("swapon", "call(167, 224, b'/tmp/x', 0)"),
    attempt("the kernel's log", "call(103, 116, 3, ctypes.create_string_buffer(100), 100)"),
    attempt("process accounting", "call(163, 89, b'/tmp/x')"),
    attempt("load a module", "call(313, 273, 0, b'', 0)"),
    attempt("another kernel", "call(246, 104, 0, 0, 0, 0)"),
    attempt("quotas", "call(179, 60, 0, 0, 0, 0)"),
    attempt("become root", "os.setuid(0)"),
    attempt("join a group", "os.setgroups([0])"),
    attempt("more priority", "os.nice(-5)"),
    attempt("real-time priority", "os.sched_setscheduler(0, 1, os.sched_param(1))"),
    attempt("a device", "os.mknod('/tmp/disk', 0o060600, os.makedev(254, 0))"),
    attempt("type into a terminal", f"{_IOCTL}(os.openpty()[1], 0x5412, b'x')"),
)
