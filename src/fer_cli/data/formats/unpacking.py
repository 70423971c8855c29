"""Compressed streams → bytes, hardly further than asked, so that memory is that of what a header promises.

One byte more than asked is unpacked where there is one, since a stream's checksum is compared only at its end.
"""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable

from fer_cli.errors import InputError, one_line

_DAMAGE = (OSError, EOFError, ValueError, zlib.error)


def gunzip(content: bytes, name: str) -> Callable[[int], bytes]:
    """A function of the number of bytes wanted that gives the first so many of a gzip stream.

    It raises InputError where the stream is damaged.
    """

    def unpack(count: int) -> bytes:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                found = stream.read(count)
                stream.read(1)
                return found
        except _DAMAGE as error:
            raise _damaged(name, error) from None

    return unpack


def inflate(content: bytes, count: int, name: str, *, is_bare: bool = False) -> bytes:
    """The first `count` bytes of a zlib stream, or where it `is_bare` of a deflate stream without its header.

    Raises InputError where the stream is damaged.
    """
    try:
        stream = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS)
        return stream.decompress(content, count + 1)[:count]
    except _DAMAGE as error:
        raise _damaged(name, error) from None


def unpack_bzip2(content: bytes, count: int, name: str) -> bytes:
    """The first `count` bytes of a bzip2 stream. Raises InputError where the stream is damaged."""
    try:
        return bz2.BZ2Decompressor().decompress(content, count + 1)[:count]
    except _DAMAGE as error:
        raise _damaged(name, error) from None


def _damaged(name: str, error: BaseException) -> InputError:
    return InputError(f"{name}: cannot be unpacked: {one_line(str(error))[:200].rstrip('.')}.")
