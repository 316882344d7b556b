"""Small pictures and folders of them, and the path that a piece of advice names."""

import io
import re
from pathlib import Path

from PIL import Image


def picture(height: int = 6, width: int = 4, mode: str = "RGB", form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, form)
    return stream.getvalue()


def write_picture(file: Path, data: bytes | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture() if data is None else data)
    return file


def write_classes(root: Path, *parts: str) -> Path:
    """Two classes of two pictures, below each of some parts."""
    for part in parts or (".",):
        for name in ("ant", "bee"):
            for number in range(2):
                write_picture(root / part / name / f"{number}.png")
    return root


def path_in(message: str) -> str:
    """The path in a piece of advice that names one."""
    found = re.search(r"(?:Name|Write) (?:one of the two, )?([^ ,]+?)[.,]*(?: |$)", message)
    assert found is not None, message
    return found[1]
