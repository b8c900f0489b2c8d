"""One pass over a large JSON object, a member at a time, in bounded memory.

The standard library's scanner does the work, on a window of decoded text: a whole document of
100 MB as one str is up to four times its bytes, and as Python objects about six times. RFC 8259,
strictly: UTF-8 (a byte order mark is passed over), no `NaN`, nothing behind the end. Of equal
member names within a value the last counts.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from artifactproxy.errors import UpstreamBroken

WINDOW = 256 * 1024  # bytes decoded at a time; a longer value makes the window grow
_EDGE = 16  # characters: a shorter rest may be the beginning of a literal or the middle of a number
_MOST_DIGITS = 4000  # Python itself refuses longer whole numbers

_BLANK = " \t\n\r"
_BLANKS = re.compile(r"[ \t\n\r]*")


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) <= _MOST_DIGITS else None


def _refused(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_refused)
_scan = _DECODER.raw_decode


class Scanner:
    """A cursor in one JSON text. Every method raises `UpstreamBroken` (`bad_index`) where the text
    is no JSON, or nested deeper than Python reads."""

    def __init__(self, body: bytes, *, window: int = WINDOW) -> None:
        self._body = body
        self._window = window
        self._taken = 0
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is no blank, "" at the end."""
        while True:
            if self._at < len(self._text) and (follows := self._text[self._at]) not in _BLANK:
                return follows
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at == len(self._text) and not self._more():
                return ""

    def members(self) -> Iterator[str]:
        """The names in the object that begins here. For each the caller takes the value before it
        asks for the next, with `value` or by going through `members` of it."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise broken()
            name, _ = self.value()
            self._take(":")
            yield name
            follows = self.peek()
            self._at += 1
            if follows == "}":
                return
            if follows != ",":
                raise broken()

    def value(self) -> tuple[Any, str]:
        """The value that begins here, and its own spelling. A number that no float can hold, or
        with thousands of digits, is None; the spelling still has it."""
        self.peek()
        while True:
            try:
                found, end = _scan(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_final(error) or not self._more():
                    raise broken() from error
                continue
            except (ValueError, RecursionError) as error:
                raise broken() from error
            if isinstance(found, int | float | None) and end > len(self._text) - _EDGE and self._more():
                continue
            spelled = self._text[self._at : end]
            self._at = end
            return found, spelled

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise broken()

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise broken()
        self._at += 1

    def _is_final(self, error: json.JSONDecodeError) -> bool:
        """Whether more text would not mend it. An open string is complained of at its beginning."""
        return error.pos < len(self._text) - _EDGE and not error.msg.startswith("Unterminated")

    def _more(self) -> bool:
        """Decode on, at least as much as is left unread, so that a long value is scanned a few
        times and not once for each window."""
        if self._taken >= len(self._body):
            return False
        left = self._text[self._at :]
        piece = self._body[self._taken : self._taken + max(self._window, len(left))]
        self._taken += len(piece)
        try:
            decoded = self._decode(piece, self._taken >= len(self._body))
        except UnicodeDecodeError as error:
            raise broken() from error
        self._text, self._at = left + decoded, 0
        return True


def broken(detail: str = "upstream's index is not valid JSON") -> UpstreamBroken:
    return UpstreamBroken(detail, code="bad_index")


def parse(body: bytes) -> Any:
    """A small document as one value."""
    scanner = Scanner(body)
    found, _ = scanner.value()
    scanner.end()
    return found
