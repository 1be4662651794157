"""One annotation file of Pascal VOC's format: its encoding, its elements, its numbers."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

MOST_BYTES = 10_000_000
FARTHEST = 1e9
"""No pixel lies so far away: a larger coordinate is a mistake, and too much for float32."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"<\0?\0": "utf-16-le",
    b"\0<\0?": "utf-16-be",
}
"""First bytes → the encoding they mean, whatever is declared; the longer ones first."""
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "ks_c_5601_1987": "cp949"}
"""Declared encoding → the larger one that programs write under its name, as browsers read it (WHATWG Encoding)."""


_NO_ENCODINGS = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"})
"""Names that Python decodes by, and no file is in; some take for ever."""


def parse_root(content: bytes) -> ET.Element:
    """Return the root element; definitions of entities (a few can grow to gigabytes) are refused.

    Raises:
        ValueError: no XML, not in the encoding that it declares, or not a VOC annotation.
    """
    text = decoded(content)
    if "<!DOCTYPE" in text:
        raise ValueError("it has a document type definition, which none needs")
    try:
        root = ET.fromstring(text)  # noqa: S314 - see above; ElementTree reads no external entities
    except ET.ParseError as error:
        raise ValueError(str(error)) from error
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, expected <annotation>")
    return root


def declared_encoding(content: bytes) -> str | None:
    """Return the encoding of an XML file by its byte order mark or its declaration; None where it has neither."""
    mark = next((name for first, name in _MARKS.items() if content.startswith(first)), None)
    declaration = _DECLARED.match(content[:400])
    declared = declaration[1].decode("ascii") if declaration else None
    if mark is None and declared and declared.lower().startswith(("utf-16", "utf-32", "ucs")):
        return "utf-8"  # .NET declares UTF-16 in what it then writes in UTF-8; here are single bytes
    return mark or declared


def decoded(content: bytes) -> str:
    """Return an XML file's text, decoded as it declares, else in UTF-8.

    Expat reads no encoding of several bytes but UTF-8 and UTF-16; Python reads all that are in use.

    Raises:
        ValueError: no such encoding, or bytes that are not of it.
    """
    declared = declared_encoding(content)
    name = declared or "utf-8"
    name = _LARGER.get(name.lower().replace("-", "_"), name)
    if name.lower().replace("-", "_") in _NO_ENCODINGS:
        raise ValueError(f"it declares the encoding {name!r}, which is none of a file")
    try:
        return content.decode(name)
    except LookupError as error:
        raise ValueError(f"it declares the encoding {name!r}, which is none") from error
    except UnicodeError as error:
        how = "as it declares" if declared else 'and it declares no other, such as encoding="GBK"'
        raise ValueError(f"not in the encoding {name}, {how} ({getattr(error, 'reason', 'undefined')})") from error


def text_at(node: ET.Element, place: str) -> str:
    """Return the text of an element below a node; empty where there is none."""
    return (node.findtext(place) or "").strip()


def number_at(node: ET.Element, place: str, default: str | None = None) -> float:
    """Return the number at a place below a node; NaN where there is none, or an absurd one."""
    try:
        number = float(node.findtext(place) or default or "")
    except ValueError:
        return math.nan
    return number if abs(number) <= FARTHEST else math.nan
