"""Allow-lists of arguments: what programs may ask of system calls that each do many things.

Whatever is not listed is refused with the errno that the kernel itself has for what it does not know, which libraries
are used to. Numbers are from the kernel's ``include/uapi``, and equal on x86_64 and aarch64.
"""

from __future__ import annotations

FAMILIES = {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6"}
"""Of sockets; the network namespace holds only a loopback."""
TYPES = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 5: "SOCK_SEQPACKET"}
PROTOCOLS = {0: "the family's own", 6: "TCP", 17: "UDP"}
"""Rarer ones are large and little tested."""

SOL_SOCKET, _SOL_IP, _SOL_TCP, _SOL_IPV6 = 1, 0, 6, 41
SOCKET_OPTIONS: dict[int, dict[int, str]] = {
    SOL_SOCKET: {
        2: "SO_REUSEADDR",
        6: "SO_BROADCAST",
        9: "SO_KEEPALIVE",
        10: "SO_OOBINLINE",
        15: "SO_REUSEPORT",
        16: "SO_PASSCRED",
        18: "SO_RCVLOWAT",
        20: "SO_RCVTIMEO",
        21: "SO_SNDTIMEO",
    },
    _SOL_IP: {
        1: "IP_TOS",
        2: "IP_TTL",
        8: "IP_PKTINFO",
        10: "IP_MTU_DISCOVER",
        11: "IP_RECVERR",
        12: "IP_RECVTTL",
        13: "IP_RECVTOS",
        24: "IP_BIND_ADDRESS_NO_PORT",
    },
    _SOL_TCP: {
        1: "TCP_NODELAY",
        3: "TCP_CORK",
        4: "TCP_KEEPIDLE",
        5: "TCP_KEEPINTVL",
        6: "TCP_KEEPCNT",
        7: "TCP_SYNCNT",
        9: "TCP_DEFER_ACCEPT",
        12: "TCP_QUICKACK",
        18: "TCP_USER_TIMEOUT",
        25: "TCP_NOTSENT_LOWAT",
        36: "TCP_INQ",
    },
    _SOL_IPV6: {
        16: "IPV6_UNICAST_HOPS",
        23: "IPV6_MTU_DISCOVER",
        25: "IPV6_RECVERR",
        26: "IPV6_V6ONLY",
        49: "IPV6_RECVPKTINFO",
        51: "IPV6_RECVHOPLIMIT",
        66: "IPV6_RECVTCLASS",
        67: "IPV6_TCLASS",
    },
}
"""By level. Not here, among others: SO_LINGER, with which whoever closes last waits, be it the kernel's own worker for
all the machine's files; filters (SO_ATTACH_*), compiled from what the machine has of memory for them; SO_TIMESTAMP*,
which slow down every packet of the machine; SO_ZEROCOPY and TCP_ZEROCOPY_RECEIVE, which keep pages that nothing counts;
TCP_ULP and TCP_CONGESTION, which load modules; groups, of which a loopback has no use; tables of packet filters.
"""

BUFFER_SIZES = {7: "SO_SNDBUF", 8: "SO_RCVBUF"}
"""Options of SOL_SOCKET that are wishes, and not granted: some machines would allow much, and where only the number of
sockets is counted, none must hold more than by default."""

IOCTLS = {
    0x5401: "TCGETS",
    0x5402: "TCSETS",
    0x5403: "TCSETSW",
    0x5404: "TCSETSF",
    0x5405: "TCGETA",
    0x5406: "TCSETA",
    0x5407: "TCSETAW",
    0x5408: "TCSETAF",
    0x5409: "TCSBRK",
    0x540A: "TCXONC",
    0x540B: "TCFLSH",
    0x540C: "TIOCEXCL",
    0x540D: "TIOCNXCL",
    0x540E: "TIOCSCTTY",
    0x540F: "TIOCGPGRP",
    0x5410: "TIOCSPGRP",
    0x5411: "TIOCOUTQ",
    0x5413: "TIOCGWINSZ",
    0x5414: "TIOCSWINSZ",
    0x541B: "FIONREAD",
    0x5420: "TIOCPKT",
    0x5421: "FIONBIO",
    0x5422: "TIOCNOTTY",
    0x5424: "TIOCGETD",
    0x5425: "TCSBRKP",
    0x5427: "TIOCSBRK",
    0x5428: "TIOCCBRK",
    0x5429: "TIOCGSID",
    0x5441: "TIOCGPTPEER",
    0x5450: "FIONCLEX",
    0x5451: "FIOCLEX",
    0x5452: "FIOASYNC",
    0x5460: "FIOQSIZE",
    0x802C542A: "TCGETS2",
    0x402C542B: "TCSETS2",
    0x402C542C: "TCSETSW2",
    0x402C542D: "TCSETSF2",
    0x80045430: "TIOCGPTN",
    0x40045431: "TIOCSPTLCK",
    0x80045432: "TIOCGDEV",
    0x80045438: "TIOCGPKT",
    0x80045439: "TIOCGPTLCK",
    0x80045440: "TIOCGEXCL",
    0x40049409: "FICLONE",
    0x4020940D: "FICLONERANGE",
    0x80086601: "FS_IOC_GETFLAGS",
    0x8905: "SIOCATMARK",
    0x8910: "SIOCGIFNAME",
    0x8912: "SIOCGIFCONF",
    0x8913: "SIOCGIFFLAGS",
    0x8915: "SIOCGIFADDR",
    0x8917: "SIOCGIFDSTADDR",
    0x8919: "SIOCGIFBRDADDR",
    0x891B: "SIOCGIFNETMASK",
    0x891D: "SIOCGIFMETRIC",
    0x8921: "SIOCGIFMTU",
    0x8927: "SIOCGIFHWADDR",
    0x8933: "SIOCGIFINDEX",
    0x8942: "SIOCGIFTXQLEN",
}
"""Not here: what types into a terminal (TIOCSTI, TIOCLINUX) or changes its driver (TIOCSETD), what changes interfaces,
what finds another process's namespaces by its pidfd, flags of files, and all that is for devices."""
IOCTL_ETHTOOL = 0x8946
"""What asks a network card, of which a loopback is none; callers expect to hear that."""

FCNTLS = {
    0: "F_DUPFD",
    1: "F_GETFD",
    2: "F_SETFD",
    3: "F_GETFL",
    4: "F_SETFL",
    5: "F_GETLK",
    6: "F_SETLK",
    7: "F_SETLKW",
    8: "F_SETOWN",
    9: "F_GETOWN",
    10: "F_SETSIG",
    11: "F_GETSIG",
    15: "F_SETOWN_EX",
    16: "F_GETOWN_EX",
    36: "F_OFD_GETLK",
    37: "F_OFD_SETLK",
    38: "F_OFD_SETLKW",
    1025: "F_GETLEASE",
    1027: "F_DUPFD_QUERY",
    1028: "F_CREATED_QUERY",
    1030: "F_DUPFD_CLOEXEC",
    1032: "F_GETPIPE_SZ",
    1034: "F_GET_SEALS",
    1036: "F_SET_RW_HINT",
}
"""Not here: leases, for which whoever opens the file waits, and dnotify, which nothing counts."""
FCNTL_PIPE_SIZE, MOST_PIPE_BYTES = 1031, 2**18
"""F_SETPIPE_SZ, whose argument has a bound: an account's pipes are limited together."""

PRCTLS = {
    1: "PR_SET_PDEATHSIG",
    2: "PR_GET_PDEATHSIG",
    3: "PR_GET_DUMPABLE",
    4: "PR_SET_DUMPABLE",
    7: "PR_GET_KEEPCAPS",
    8: "PR_SET_KEEPCAPS",
    13: "PR_GET_TIMING",
    15: "PR_SET_NAME",
    16: "PR_GET_NAME",
    21: "PR_GET_SECCOMP",
    22: "PR_SET_SECCOMP",
    23: "PR_CAPBSET_READ",
    24: "PR_CAPBSET_DROP",
    25: "PR_GET_TSC",
    27: "PR_GET_SECUREBITS",
    29: "PR_SET_TIMERSLACK",
    30: "PR_GET_TIMERSLACK",
    36: "PR_SET_CHILD_SUBREAPER",
    37: "PR_GET_CHILD_SUBREAPER",
    38: "PR_SET_NO_NEW_PRIVS",
    39: "PR_GET_NO_NEW_PRIVS",
    40: "PR_GET_TID_ADDRESS",
    41: "PR_SET_THP_DISABLE",
    42: "PR_GET_THP_DISABLE",
    47: "PR_CAP_AMBIENT",
    50: "PR_SVE_SET_VL",
    51: "PR_SVE_GET_VL",
    52: "PR_GET_SPECULATION_CTRL",
    54: "PR_PAC_RESET_KEYS",
    55: "PR_SET_TAGGED_ADDR_CTRL",
    56: "PR_GET_TAGGED_ADDR_CTRL",
    60: "PR_PAC_SET_ENABLED_KEYS",
    61: "PR_PAC_GET_ENABLED_KEYS",
    63: "PR_SME_SET_VL",
    64: "PR_SME_GET_VL",
    65: "PR_SET_MDWE",
    66: "PR_GET_MDWE",
    0x53564D41: "PR_SET_VMA",
}
"""Not here: what shares out processors (PR_SCHED_CORE), merges memory, traces, or moves parts of a process."""
PRCTL_SECCOMP = 22
"""The one that interpreters lose once their filters are in place: each more is compiled, as by ``seccomp``."""
FADVISE_DONT_NEED = 4
"""The advice to forget a file, whose pages others of the machine use too."""
NEW_NAMESPACES = 0x7E020000
"""Every CLONE_NEW* flag that clone takes."""
CLONE_PARENT = 0x8000
"""Makes a sibling instead of a child: a fork server's, which waits for none that it has not forked, so that the zombie
would stay and hold up whoever clears the container."""
INIT = 1
"""The pid of a container's init, whose limits the kernel lets any process of its account set."""
