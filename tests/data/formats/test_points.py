import numpy as np
import pytest

from fer_cli.data.formats.points import _unpack
from fer_cli.data.formats.registry import PointCloud, read_shape
from fer_cli.errors import InputError

POINTS = np.array([[1, 2, 3], [4, 5, 6], [-7.5, 8, 9], [1, 2, 3]])


def read_points(content: bytes, name: str) -> np.ndarray:
    cloud = read_shape(content, name)
    assert isinstance(cloud, PointCloud)
    return cloud.points


def lzf(plain: bytes) -> bytes:
    """Literal runs, and one back-reference wherever the last three bytes come again: enough to be decoded."""
    packed, at = b"", 0
    while at < len(plain):
        earlier = plain.rfind(plain[at : at + 9], max(0, at - 8000), at + 8) if len(plain) - at >= 9 else -1
        if earlier >= 0 and earlier < at:
            length, back = 9, at - earlier - 1
            packed += bytes([(7 << 5) | (back >> 8), length - 9, back & 255])
        else:
            length = min(5, len(plain) - at)
            packed += bytes([length - 1]) + plain[at : at + length]
        at += length
    return packed


def pcd(points: np.ndarray, encoding: str, *, kind: str = "F", size: int = 4, **changes: str) -> bytes:
    """With a field before and one of two numbers after the position."""
    fields = {
        "VERSION": "0.7", "FIELDS": "ring x y z normal", "SIZE": f"2 {size} {size} {size} 4",
        "TYPE": f"U {kind} {kind} {kind} F",
        "COUNT": "1 1 1 1 2", "WIDTH": str(len(points)), "HEIGHT": "1", "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(len(points)), "DATA": encoding, **changes,
    }  # fmt: skip
    header = "# .PCD v0.7\n" + "".join(f"{key} {value}\n" for key, value in fields.items())
    axis = f"<{kind.lower()}{size}"
    rows = np.zeros(len(points), [("ring", "<u2"), ("x", axis), ("y", axis), ("z", axis), ("normal", "<f4", 2)])
    for i, name in enumerate("xyz"):
        rows[name] = points[:, i]
    if encoding == "ascii":
        body = "".join(f"7 {x:g} {y:g} {z:g} 0.5 0.5\n" for x, y, z in points).encode()
    elif encoding == "binary":
        body = rows.tobytes()
    else:
        plain = b"".join(rows[field].tobytes() for field in rows.dtype.names)
        packed = lzf(plain)
        body = np.array([len(packed), len(plain)], "<u4").tobytes() + packed
    return header.encode() + body


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize(("kind", "size"), [("F", 4), ("F", 8)])
def test_pcd_of_any_encoding_is_the_same_points(encoding: str, kind: str, size: int) -> None:
    many = np.tile(POINTS, (100, 1))
    np.testing.assert_array_equal(read_points(pcd(many, encoding, kind=kind, size=size), "scan.pcd"), many)


def test_pcd_of_whole_numbers_and_without_count_and_points_is_read() -> None:
    whole = np.array([[1, -2, 3], [4, 5, -6]])
    np.testing.assert_array_equal(read_points(pcd(whole, "binary", kind="I", size=2), "scan.pcd"), whole)
    content = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 1\nHEIGHT 2\nDATA ascii\n1 2 3\n4 5 6\n"
    assert read_points(content.replace("\n", "\r\n").encode(), "scan.pcd").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_nan_in_pcd_says_that_there_is_no_point(encoding: str) -> None:
    holed = np.where(np.arange(4)[:, None] == 2, np.nan, POINTS)
    np.testing.assert_array_equal(read_points(pcd(holed, encoding), "scan.pcd"), POINTS[[0, 1, 3]])
    with pytest.raises(InputError, match="not one of 4 points has a place"):
        read_points(pcd(POINTS * np.nan, encoding), "scan.pcd")


@pytest.mark.parametrize(
    "content",
    ["1 2 3\n4 5 6\n", "2\n1 2 3\n4 5 6\n", "1,2,3,255,0,0\r\n4;5;6;0;0;0", "\ufeff# x y z\n\n1 2 3 # one\n4e0 5 +6"],
)
def test_xyz_of_any_dress_is_the_same_points(content: str) -> None:
    assert read_points(content.encode(), "scan.xyz").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"", "the file is empty"),
        ("a.xyz", b"# header only\n", "holds no point"),
        ("a.xyz", b"5\n", "point 0 has 1 numbers, expected at least 3"),
        ("a.xyz", b"1 2 3\n4 5\n", "point 1 has 2 numbers, expected at least 3"),
        ("a.xyz", b"2\nwater\nO 0 0 0\nH 0 0 1\n", "'water' at byte 2 is not a number"),
        ("a.xyz", b"1 2 nan\n", "not one of 1 points has a place"),
        ("a.xyz", b"\x89PNG\r\n\x1a\n\0", "is not a number"),
        ("a.pcd", b"", "the file is empty"),
        ("a.pcd", b"1 2 3\n", "not a PCD file; it begins with '1 2 3"),
        ("a.pcd", b"\x89PNG\r\n\x1a\n\0", "not a PCD file"),
        ("a.pcd", b"VERSION .7\nFIELDS x y z\n", "no line 'DATA' after VERSION, FIELDS"),
        ("a.pcd", pcd(POINTS, "ascii", SIZE="4 4"), "the PCD header does not parse: .*SIZE 4 4;"),
        ("a.pcd", pcd(POINTS, "ascii", TYPE="U F F F Q"), "the PCD header does not parse"),
        ("a.pcd", pcd(POINTS, "ascii", POINTS="many"), "the PCD header does not parse: .*POINTS many"),
        ("a.pcd", pcd(POINTS, "ascii", POINTS="0"), "0 points of 5 fields in ascii data make no shape"),
        ("a.pcd", pcd(POINTS, "ascii", POINTS="-3"), "-3 points of 5 fields"),
        ("a.pcd", pcd(POINTS, "ascii", COUNT="1 1 1 1 -2"), "make no shape"),
        ("a.pcd", pcd(POINTS, "ascii", DATA="text"), "in text data make no shape"),
        (
            "a.pcd",
            pcd(POINTS, "ascii", FIELDS="ring x y w normal"),
            "points have ring, x, y, w, normal, expected one z",
        ),
        ("a.pcd", pcd(POINTS, "ascii", POINTS="1000000000"), "1000000000 points are promised, 4 lines follow"),
        ("a.pcd", pcd(POINTS, "binary", POINTS="1000000000"), "1000000000 points of 22 bytes are promised, 88 bytes"),
        ("a.pcd", pcd(POINTS, "binary_compressed", POINTS="1000000000"), "1000000000 points of 22 bytes are promised"),
        ("a.pcd", pcd(POINTS, "binary")[:-1], "truncated: 4 points of 22 bytes are promised, 87 bytes follow"),
        ("a.pcd", pcd(POINTS, "binary_compressed")[:-1], "truncated: .* bytes that grow to 88 are promised"),
        ("a.pcd", pcd(POINTS, "ascii").replace(b"7 4 5 6", b"7 4"), "point 1 has 4 numbers, expected 6"),
        ("a.pcd", pcd(POINTS * np.inf, "binary"), r"point 0 is at \(inf, inf, inf\), expected finite"),
    ],
)
def test_damaged_points_are_named_with_what_was_found(name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_shape(content, name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_compressed_points_that_promise_too_much_are_refused_unallocated() -> None:
    content = pcd(POINTS, "binary_compressed", POINTS="100000000")
    start = content.index(b"DATA binary_compressed\n") + 23
    promise = content[:start] + content[start : start + 4] + np.uint32(2_200_000_000).tobytes() + content[start + 8 :]
    with pytest.raises(InputError, match="bytes that grow to 2200000000 are promised"):
        read_shape(promise, "a.pcd")


def test_compressed_points_that_grow_beyond_any_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pcd(np.ones((100, 3)), "binary_compressed")
    assert len(read_points(content, "a.pcd")) == 100
    monkeypatch.setattr("fer_cli.data.formats.points._MOST_UNPACKED", 1000)
    with pytest.raises(InputError, match=r"a\.pcd: \d+ bytes grow to 2200, more than 1000; refused"):
        read_points(content, "a.pcd")


def test_lzf_repeats_what_it_has_just_written() -> None:
    # One literal byte, then 11 bytes from one back: the format's way to write a run.
    packed, unpacked = np.frombuffer(bytes([0, 65, 7 << 5, 2, 0]), np.uint8), np.empty(12, np.uint8)
    assert _unpack(packed, unpacked) == 12
    assert unpacked.tobytes() == b"A" * 12


@pytest.mark.parametrize(
    "packed", [[5, 1], [32, 0], [0, 65, 7 << 5], [0, 65, 7 << 5, 2], [0, 65, 1 << 5, 1], [31, *[0] * 32]]
)
def test_damaged_lzf_is_refused(packed: list[int]) -> None:
    assert _unpack(np.array(packed, np.uint8), np.empty(12, np.uint8)) == -1
