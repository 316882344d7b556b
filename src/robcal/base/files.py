"""Files are read and written in one way: what goes wrong is refused by the file's name, and a file is written whole.

Work that two processes want is done by one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from filelock import FileLock

from robcal.base.checks import check_file
from robcal.base.errors import InputError, refuse

try:
    import fcntl
except ImportError:  # a system without locks: nothing is locked, and nothing left behind is removed
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def reading(
    path: Path,
    what: str,
    *,
    rule: str = "the file must be whole and of the right kind",
    fix: str | Callable[[str], str] = "Put a whole copy in its place, or delete it and make it again",
) -> Iterator[None]:
    """Turn whatever a reader of `path` raises in the block into one refusal that names the file.

    Libraries raise many kinds of error on damaged files, of which they document few; so all are taken. Only code that
    reads the file may stand in the block. `what` it holds ("the scores"), the `rule` for such a file, and what to do,
    `fix`, or a function that tells that of the reason, are for the error.
    """
    check_file(path, what)
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        refuse(f"{what} {path} does not fit into memory", "it is read whole", "Take a smaller file, or free memory")
    except Exception as error:
        reason = reason_of(error)
        refuse(f"{what} {path} cannot be read ({reason})", rule, fix if isinstance(fix, str) else fix(reason))


def reason_of(error: BaseException) -> str:
    r"""Return what an error of a library says, on one line, short, and without advice to load a file unsafely.

    >>> reason_of(ValueError("a\n b")), reason_of(KeyError())
    ('a b', 'KeyError')
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    reason = " ".join(str(error).split()) or type(error).__name__
    unsafe = "pickle" in reason or "weights_only" in reason
    return "it holds Python objects, and to unpickle them could run code" if unsafe else reason[:200]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against making `path` in the block into one refusal that names it."""
    try:
        yield
    except OSError as error:
        refuse_unwritable(path, error)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block ends well, remove it if not."""
    with writing(path), contextlib.ExitStack() as opened:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path.parent, _temporary_names(path.parent), f".{path.name}.")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        opened.callback(_remove, temporary)
        opened.callback(os.close, handle)
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_SH)  # says that its process lives
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)


def refuse_unwritable(path: Path, error: Exception) -> NoReturn:
    """Say why a file cannot be written."""
    reason = getattr(error, "strerror", None) or reason_of(error)
    fix = "Free space, give yourself the right to write there, or choose another place; finished work is kept"
    refuse(f"{path} cannot be written ({reason})", "its folder must take new files, and the disk must have room", fix)


def refuse_changed(path: Path) -> NoReturn:
    """Refuse a file that does not fit the digest in it."""
    given = f"{path} was changed after it was written: what it holds does not fit the digest that it carries"
    fix = f"Put back a copy from before, or delete {path} and run the command that made it again"
    refuse(given, "files that robcal wrote are read as they were written", fix)


def remove_left_behind(folder: Path) -> None:
    """Remove all temporary files of `replacing` that killed processes left in a folder."""
    with contextlib.suppress(OSError):
        _remove_dead(folder, _list_temporary(folder))


def _remove_dead(folder: Path, names: Iterable[str], prefix: str = ".") -> None:
    """Remove temporary files whose process was killed: no living one holds their locks."""
    if fcntl is None:
        return
    for name in names:
        if name.startswith(prefix):
            with contextlib.suppress(OSError), (folder / name).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


@functools.lru_cache(maxsize=64)
def _temporary_names(folder: Path) -> tuple[str, ...]:
    """Return the temporary files in a folder when this process first writes there; a folder is listed once."""
    return _list_temporary(folder)


def _list_temporary(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(
            entry.name for entry in entries
            if entry.name.startswith(".") and entry.name.endswith(".tmp") and entry.is_file(follow_symlinks=False)
        )  # fmt: skip


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` while the block runs; others wait. The lock ends with its process."""
    with contextlib.ExitStack() as held:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path))
        yield
