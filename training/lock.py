"""One process at a time trains a run: a lock on its folder, which ends with the process."""
import contextlib

from filelock import FileLock, Timeout

from tools.errors import SubmissionError
from training.run_files import RECORD

LOCK = "lock"


@contextlib.contextmanager
def lock_run(folder):
    """Hold the lock on a run's folder; the file is removed once the run is finished.

    The system frees the lock of a process that ends, however it ends. On a file system without
    locks, as Google Drive may be, nothing is locked.

    Args:
        folder: the run's folder, which exists.

    Raises:
        SubmissionError: if another process holds the lock.
    """
    lock = FileLock(folder / LOCK)
    held = True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SubmissionError(
            f"another program is training the run in {folder}, perhaps another notebook: wait "
            "until it is finished or stop it, then run this again"
        ) from None
    except (OSError, NotImplementedError):
        held = False
    try:
        yield
    finally:
        if held:
            lock.release()
        if (folder / RECORD).exists():
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)
