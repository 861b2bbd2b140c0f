"""One thread of a program held still while the others go on: what a worker that hangs looks like from outside."""

import contextlib
import ctypes
import os
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WAIT_FOR_ANY_THREAD = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long


def ptrace(request, thread):
    if LIBC.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of thread {thread}")


@contextlib.contextmanager
def frozen(pid, name):
    """Holds the thread of that name, of a process that this one has started."""
    tasks = Path(f"/proc/{pid}/task")
    [thread] = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name]
    ptrace(PTRACE_SEIZE, thread)
    ptrace(PTRACE_INTERRUPT, thread)
    os.waitpid(thread, WAIT_FOR_ANY_THREAD)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH, thread)
