"""Saves under faults, in a process with tests/c/faults.c before libc: python tests/save_faults.py FOLDER COUNT.

After each fault the file is the former one or the new one, whole; what was kept beside it is whole; and an error that
reached Python names its cause.
"""

import ctypes
import errno
import os
import random
import signal
import sys
from collections import Counter

import numpy as np

import pynn
from pynn import nn

SHIM = ctypes.CDLL(None)
SHIM.fault_arm.restype = ctypes.c_long
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


def model(value, size):
    """A model whose numbers are all one value: a mixture would show."""
    m = nn.Linear(size, 3)
    with pynn.no_grad():
        for p in m.parameters():
            p.fill_(value)
    return m


def value_of(path):
    values = {float(v) for a in pynn.load(path).state_dict().values() for v in np.unique(a)}
    assert len(values) == 1, "a mixture"
    return values.pop()


def under_fault(save, mode, at, code):
    """How save ended: 'killed', 'saved' or the OSError."""
    if mode in "kK":
        child = os.fork()
        if child == 0:
            SHIM.fault_arm(ord(mode), at, 0)
            save()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0, f"the child ended with {status}"
            return "saved"
        assert os.WTERMSIG(status) == signal.SIGKILL
        return "killed"
    SHIM.fault_arm(ord(mode), at, code)
    try:
        save()
    except OSError as e:
        return e
    finally:
        SHIM.fault_disarm()
    return "saved"


def main(folder, count):
    rng = random.Random(0)
    path = os.path.join(folder, "m")
    ends = Counter()
    now = 0.0
    pynn.save(model(now, 4), path)
    for k in range(count):
        size, keep = rng.choice((4, 300, 30000)), rng.random() < 0.5
        new = model(float(k + 1), size)

        def save(new=new, keep=keep):
            pynn.save(new, path, keep=keep)

        SHIM.fault_arm(ord("n"), 0, 0)
        pynn.save(new, path + "x", keep=keep)
        pynn.save(new, path + "x", keep=keep)
        calls = SHIM.fault_arm(ord("n"), 0, 0) // 2
        SHIM.fault_disarm()
        mode, code = rng.choice("kKes"), rng.choice(ERRORS)
        end = under_fault(save, mode, rng.randint(1, calls + 1), code)
        found = value_of(path)
        assert found in (now, float(k + 1)), f"fault {k}: neither the former nor the new model"
        if isinstance(end, OSError):
            assert end.errno == code, f"fault {k}: {end}"
            assert "save: " in str(end), end
            assert path in str(end), end
            assert found == (now if "what was there is unchanged" in str(end) else k + 1), end
            ends["error"] += 1
        else:
            assert end != "saved" or found == k + 1
            ends[end] += 1
        if os.path.exists(path + ".former"):
            value_of(path + ".former")
        now = found
        for name in os.listdir(folder):
            if ".part" in name:  # of a process that was killed, or could not unlink
                os.unlink(os.path.join(folder, name))
    print(dict(ends))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
