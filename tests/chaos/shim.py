"""An unreliable file system and clock for other processes: shim.c, and its shared memory."""

import ctypes
import errno
import functools
import mmap
import shutil
import subprocess
import tempfile
from pathlib import Path

# The calls that can fail, as shim.c counts them.
CLASSES = (
    "open_read",
    "open_write",
    "read",
    "write",
    "sync",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "stat",
    "list",
    "truncate",
    "touch",
)
WRITING = tuple(name for name in CLASSES if name not in ("open_read", "read", "stat", "list"))
# Calls that need space, and so fail on a full disk.
GROWING = ("open_write", "write", "sync", "link", "mkdir", "truncate")
ALWAYS = 1.0


class _Control(ctypes.Structure):
    """The memory, as shim.c has it."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("seed", "clock_ns", "budget", "writes", "delayed", "shuffled", "hidden")
        ),
        ("injected", ctypes.c_uint64 * len(CLASSES)),
        *(
            (name, ctypes.c_uint32)
            for name in ("armed", "delay_us", "delay_ppm", "shuffle", "stale_ms")
        ),
        ("ppm", ctypes.c_uint32 * len(CLASSES)),
        ("error", ctypes.c_int32 * len(CLASSES)),
    )


@functools.cache
def library():
    """The compiled shim, which is removed when this process ends; None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="cldctl-chaos-shim")
    _folders.append(folder)
    built = Path(folder.name) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-w", "-o", built, source, "-ldl", "-pthread"],
        check=True,
    )
    return built


_folders = []


class Faults:
    """What happens to the calls of processes that were started with `environment`; may be changed
    while they run.

    Args:
        control: a new file, outside of ``prefix``.
        prefix: the folder on which calls fail.
    """

    def __init__(self, control, prefix, seed=0):
        self._control = control
        self._prefix = prefix.resolve()
        size = ctypes.sizeof(_Control)
        control.write_bytes(bytes(size))
        with control.open("r+b") as file:
            self.control = _Control.from_buffer(mmap.mmap(file.fileno(), size))
        self._set(seed=seed, budget=-1)

    def environment(self, *, kill_at=None, torn=False):
        """Variables for a process and its descendants.

        Args:
            kill_at: the process, but no other that it starts, dies before this writing call (from
                1); 0 only counts.
            torn: if that call is a write, half of it gets through.
        """
        built = library()
        assert built is not None, "no C compiler"
        dying = {} if kill_at is None else {"CHAOS_KILL_AT": str(kill_at)}
        dying |= {"CHAOS_KILL_TORN": "1"} if torn else {}
        return {
            "LD_PRELOAD": str(built),
            "CHAOS_CONTROL": str(self._control),
            "CHAOS_PREFIX": str(self._prefix),
            **dying,
        }

    def fail(self, calls=CLASSES, error=errno.ESTALE, rate=ALWAYS, times=-1):
        """From now on, calls fail with ``error``, each with this probability, at most so many
        ``times`` in all."""
        self._set(budget=times)
        for number, name in enumerate(CLASSES):
            self.control.error[number] = error
            self.control.ppm[number] = round(1e6 * rate) if name in calls else 0
        self._set(armed=1)

    def be_slow(self, seconds, rate=ALWAYS):
        """Delay calls by ``seconds``, each with this probability."""
        self._set(delay_us=round(1e6 * seconds), delay_ppm=round(1e6 * rate), armed=1)

    def list_badly(self, stale_s=0.0):
        """Listings come in random order, and without what other processes made in the last
        ``stale_s`` seconds."""
        self._set(shuffle=1, stale_ms=round(1000 * stale_s), armed=1)

    def jump(self, seconds):
        """The time of day is this far from the truth."""
        self._set(clock_ns=seconds * 10**9, armed=1)

    def calm(self):
        """Nothing fails any more."""
        self._set(armed=0, clock_ns=0, shuffle=0, stale_ms=0, delay_ppm=0, budget=-1)
        self.control.ppm[:] = [0] * len(CLASSES)

    @property
    def failed(self):
        """How many calls have failed so far."""
        return sum(self.control.injected)

    def forget_writes(self):
        """Count the writing calls of the next process from 1."""
        self._set(writes=0)

    def _set(self, **values):
        for name, value in values.items():
            setattr(self.control, name, value)
