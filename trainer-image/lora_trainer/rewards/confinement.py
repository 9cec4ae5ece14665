"""Confines a process that runs a user's code, and all that it starts. Standard library only, no other module.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) needs no rights. It is part of Linux since 5.13, if the
distribution turns it on. There is no package for it that is better kept than these three system calls.
"""

import ctypes
import os
import resource
import stat
import sys
from collections.abc import Iterable, Iterator

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on every processor."""
VERSION_FLAG = 1
PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE = 1 << 13, 1 << 14
OF_VERSION_1 = (1 << 13) - 1
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
READ = EXECUTE | READ_FILE | READ_DIR
SCOPES = 0b11
"""Signals and abstract sockets of processes that are not confined."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/sys", "/proc")
"""Folders with programs, libraries and their settings; none of them holds credentials."""
SHARED_MEMORY = "/dev/shm"
"""Where Python's multiprocessing has its locks."""


def confine(*, readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Let this process read these folders and files beside the system's, write those alone, and neither inspect nor
    signal a process that is not confined. Returns whether the kernel does all that."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    if version < 1:
        return False
    handled = OF_VERSION_1 | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    fields = (handled,) if version < 6 else (handled, 0, SCOPES)
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)), 0)
    if ruleset < 0:
        return False
    for path in (*SYSTEM, *readable):
        _allow(libc, ruleset, path, READ)
    for path in (SHARED_MEMORY, *_devices(), *writable):
        _allow(libc, ruleset, path, handled)
    confined = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return confined


def interpreter() -> list[str]:
    """What Python itself reads."""
    return [path for path in (sys.prefix, sys.base_prefix, sys.executable, *sys.path) if path]


def _devices() -> Iterator[str]:
    """Accelerators, /dev/null and the like. Not the termination message, which is a file in /dev."""
    for folder, _, names in os.walk("/dev"):
        paths = (f"{folder}/{name}" for name in names)
        yield from (path for path in paths if stat.S_ISCHR(os.lstat(path).st_mode))


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this system
    if not stat.S_ISDIR(os.fstat(beneath).st_mode):
        access &= OF_FILES

    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))

    libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(Rule(access, beneath)), 0)
    os.close(beneath)
