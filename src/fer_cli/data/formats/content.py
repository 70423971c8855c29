"""The bytes of a file as its reader should see them: no byte-order mark, no UTF-16, unpacked from gzip.

A file that is not there yet, but stands for another (Git LFS), is named for what it is.
"""

import codecs
import re

from fer_cli.errors import InputError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_POINTER = b"version https://git-lfs.github.com/spec/"
_SEPARATORS = re.compile(rb"[\s,;]+")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?nan", re.IGNORECASE)


def require_content(content: bytes, name: str) -> None:
    """Raise InputError where a file, or its beginning, is empty or a pointer of Git LFS."""
    if not content:
        raise InputError(f"{name}: the file is empty.")
    if content.startswith(_POINTER):
        raise InputError(f"{name}: a pointer of Git LFS, not the file itself; run 'git lfs pull' where it comes from.")


def without_mark(content: bytes) -> bytes:
    """The same content without a byte-order mark at its beginning; text in UTF-16 or UTF-32 becomes UTF-8."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding).encode()
            except UnicodeError:
                return content
    return content.removeprefix(codecs.BOM_UTF8)


def plain_text(content: bytes) -> bytes:
    """The same text without any byte-order mark: files that were joined have some within."""
    content = without_mark(content)
    # One byte is found ten times faster than three, and few texts hold it.
    return content.replace(codecs.BOM_UTF8, b"") if codecs.BOM_UTF8[:1] in content else content


def looks_like_points(head: bytes) -> bool:
    """Whether the first line of a text that is no comment holds three numbers or more."""
    if head.startswith(_POINTER):
        return True
    for line in plain_text(head).splitlines():
        words = [word for word in _SEPARATORS.split(line.partition(b"#")[0]) if word]
        if words and not (len(words) == 1 and words[0].isdigit()):  # which says how many lines follow
            return len(words) >= 3 and all(map(_NUMBER.fullmatch, words[:3]))
    return False
