"""From bytes to UTF-8 with plain line ends: what the encoding is, found out or refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.errors import DataError

BROKEN = re.compile("[\udc80-\udcff]")
"""Bytes that are not of the encoding, as `surrogateescape` keeps them."""
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_SAMPLE = 4 << 20
_RUNS = re.compile(rb"[\x80-\xff]+")
_HAN = re.compile("[\u3000-\u303f\u3400-\u9fff\uff00-\uffef\u2010-\u2026]")
_FREQUENT = re.compile(rb"[\xb0-\xd7][\xa1-\xfe]")  # the frequent characters of GB 2312, in the order of pinyin
_KANA = re.compile("[\u3040-\u30ff]")
_TYPOGRAPHIC = set("«»“”„‘’–—…€£¥©®™°·•¿¡§¼½¾×²³¹ºª\xa0´¢±µ¶†‰‹›")


@dataclass(frozen=True)
class Decoded:
    r"""A text file as UTF-8 bytes with "\n" as the only line end and no byte order mark.

    `encoding` is what it was written in; `broken` says that bytes which are not of that encoding are still in
    `data`, so that their lines can be named; `line_ends` is "LF", "CRLF" or "CR".
    """

    data: bytes
    encoding: str
    broken: bool
    line_ends: str


def decoded(data: bytes, options: ReadOptions, name: str) -> Decoded:
    """`data` in UTF-8, by the encoding that is given or found.

    Raises:
        DataError: No encoding fits; the sentence says which option names one.
    """
    encoding, mark = (options.encoding, 0) if options.encoding else encoding_of(data, name)
    data = data[mark:] if mark else data
    try:
        data, broken = _as_utf8(data, encoding, name)
    except UnicodeError:
        raise DataError(f"{name} is not text in {encoding}; name another --encoding.") from None
    return _with_plain_ends(data, encoding, broken)


def _as_utf8(data: bytes, encoding: str, name: str) -> tuple[bytes, bool]:
    """UTF-8, and whether bytes that are not of the encoding are left in it."""
    broken = False
    if not (data.isascii() and encoding in ("utf-8", "cp1252", "gb18030")):
        try:
            text = data.decode(encoding)
            data = text.removeprefix("\ufeff").encode() if encoding != "utf-8" else data
        except UnicodeDecodeError as error:
            broken = True
            if encoding.replace("_", "-").lower() not in ("utf-8", "utf8"):
                data = _transcoded(data, encoding, error, name)
    return data, broken


def encoding_of(data: bytes, name: str) -> tuple[str, int]:
    """The encoding of a file that begins with `data`, and the size of its byte order mark.

    Raises:
        DataError: It cannot be told.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return _encoding(data, name), 0


def _transcoded(data: bytes, encoding: str, error: UnicodeDecodeError, name: str) -> bytes:
    if encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        raise DataError(f"{name}: byte {error.start} is not {encoding}; fetch it again or name another --encoding.")
    return data.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape")


def _with_plain_ends(data: bytes, encoding: str, broken: bool) -> Decoded:
    ends = "LF"
    if b"\r" in data:
        if b"\n" not in data:
            data, ends = data.replace(b"\r", b"\n"), "CR"
        elif b"\r\n" in data:
            data, ends = data.replace(b"\r\n", b"\n"), "CRLF"
    return Decoded(data, encoding, broken, ends)


def _encoding(data: bytes, name: str) -> str:
    """The encoding of bytes without a mark; UTF-8 with a few broken bytes is UTF-8."""
    if data.isascii() and b"\0" not in data[:4096]:
        return "utf-8"
    if wide := _wide(data[:4096]):
        return wide
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        sample = data[max(0, error.start - _SAMPLE // 2) :][:_SAMPLE]
    text = sample.decode("utf-8", "surrogateescape")
    bad = len(BROKEN.findall(text))
    good = sum(not c.isascii() for c in text) - bad
    # A file of UTF-8 that a program cut or pasted into keeps most of its signs whole; in another encoding nearly none
    # are whole by chance.
    if good >= bad:
        return "utf-8"
    if _is_chinese(sample):
        return "gb18030"
    if _is_western(sample):
        return "cp1252"
    raise DataError(
        f"{name} is not UTF-8 and its encoding cannot be told; name it as --encoding (for example cp1251, shift_jis, "
        "big5) or save the file as UTF-8."
    )


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of Western text is NUL."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    # Text of two bytes a sign in a Western script has a NUL in every other place, and in the same one.
    if max(even, odd) < 0.3 * len(head) / 2 or min(even, odd) > 0.1 * len(head) / 2:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _is_chinese(sample: bytes) -> bool:
    text = sample.decode("gb18030", "replace")
    signs = sum(not c.isascii() for c in text)
    han, wrong, kana = len(_HAN.findall(text)), text.count("\ufffd"), len(_KANA.findall(text))
    # Nearly any bytes decode as GB 18030; Chinese text uses its frequent characters, which lie in one block in the
    # order of their sounds.
    frequent = _FREQUENT.findall(sample)
    kinds = set(frequent)
    late = sum(pair[0] > 0xC8 for pair in kinds)  # Korean in EUC-KR has none there, Chinese two of five
    return (
        # A sample may begin and end within a sign, hence two wrong ones.
        wrong <= 2
        and han >= 0.9 * signs
        and kana < 0.05 * signs
        and len(frequent) >= 0.5 * han
        and (late >= 0.05 * len(kinds) if len(kinds) >= 8 else True)
    )


def _is_western(sample: bytes) -> bool:
    """Accented letters stand alone or in pairs, and next to plain ones; Cyrillic or Greek words are runs of them."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    signs = [c for c in text if not c.isascii()]
    # In French or German accented letters are scattered; whole words of high bytes are Cyrillic, Greek or Arabic in
    # their own encodings, which cp1252 would read as accented rubbish.
    in_runs = sum(len(run) for run in _RUNS.findall(sample) if len(run) > 2)
    plain = sum(c.isalpha() or c in _TYPOGRAPHIC for c in signs)
    if sum(c in "ýþðÝÞÐ" for c in signs) > sum(c in "áéíóúæ" for c in signs):
        return False  # Turkish has other letters in the places of these Icelandic ones
    return in_runs <= 0.2 * len(signs) and plain >= 0.8 * len(signs)
