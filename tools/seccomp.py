"""Refuses student code the system calls that it never needs and that reach far into the kernel.

The filter is a program for the kernel's own small machine (classic BPF), as bubblewrap's option
--seccomp takes it: see seccomp(2) and linux/bpf_common.h, linux/filter.h, linux/seccomp.h.
"""

import os
import platform
import struct

LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
# The call fails with an error number: SECCOMP_RET_ERRNO and the number
RETURN_EPERM = 0x50000 + 1
RETURN_ENOSYS = 0x50000 + 38
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
NEW_USER_NAMESPACE = 0x10000000  # CLONE_NEWUSER
AF_VSOCK, AF_ALG = 40, 38  # sockets to a virtual machine's host, and to the kernel's ciphers
X32 = 0x40000000  # from here on numbers of another interface of the same x86_64 kernel

# For each machine its AUDIT_ARCH and the numbers of calls: all of them have clone3 (435).
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {
    "x86_64": {"clone": 56, "unshare": 272, "socket": 41, "socketpair": 53},
    "aarch64": {"clone": 220, "unshare": 97, "socket": 198, "socketpair": 199},
}
REFUSED = {
    # add_key, request_key, keyctl, setns, bpf, perf_event_open, userfaultfd, mount, ptrace
    "x86_64": (248, 249, 250, 308, 321, 298, 323, 165, 101),
    "aarch64": (217, 218, 219, 268, 280, 241, 282, 40, 117),
}
IO_URING = (425, 426, 427)
CLONE3 = 435  # its flags lie in memory, out of a filter's reach; the C library then uses clone


def program(machine):
    """The filter for a machine ("x86_64", "aarch64") in bytes, b"" if it is not known here."""
    if machine not in MACHINES:
        return b""
    lines = [(LOAD, 0, 0, MACHINE), (JUMP_IF_EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, KILL)]
    lines += [(LOAD, 0, 0, NUMBER), (JUMP_IF_AT_LEAST, 0, 1, X32), (RETURN, 0, 0, RETURN_ENOSYS)]
    for number in (*IO_URING, CLONE3):
        lines += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, RETURN_ENOSYS)]
    for number in REFUSED[machine]:
        lines += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, RETURN_EPERM)]
    for name, number in CALLS[machine].items():
        tests = [(JUMP_IF_EQUAL, AF_VSOCK), (JUMP_IF_EQUAL, AF_ALG)]
        if name in ("clone", "unshare"):
            tests = [(JUMP_IF_ANY_BIT, NEW_USER_NAMESPACE)]
        lines += [(JUMP_IF_EQUAL, 0, 2 + 2 * len(tests), number), (LOAD, 0, 0, FIRST_ARGUMENT)]
        for test, value in tests:
            lines += [(test, 0, 1, value), (RETURN, 0, 0, RETURN_EPERM)]
        lines.append((RETURN, 0, 0, ALLOW))
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def open_filter():
    """A descriptor of this machine's filter for --seccomp, None where it is not known.

    The caller passes it on to bubblewrap and closes it.
    """
    content = program(platform.machine())
    if not content:
        return None
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
