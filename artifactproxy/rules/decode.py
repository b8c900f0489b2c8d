"""Undoing a content coding under caps, for documents that we parse (never for artifacts).

RFC 9110 section 8.4.1. A truncated stream, trailing bytes, a ratio or a size past the cap raise.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from artifactproxy.errors import TooLarge, UpstreamBroken

MEMBERS_MAX = 16
RATIO_SLACK_BYTES = 1 << 20  # small documents may compress better than the ratio allows


class Decoder:
    """Feeds compressed pieces through; `coding` is `gzip` or `deflate`, sizes in bytes."""

    def __init__(self, coding: str, *, max_bytes: int, max_ratio: int) -> None:
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise UpstreamBroken(f"content coding {coding!r} was not asked for", code="unasked_encoding")
        self._window_bits = zlib.MAX_WBITS | (32 if coding == "deflate" else 16)
        self._inflate = zlib.decompressobj(self._window_bits)
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._members = 1
        self._taken = 0
        self._given = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Decoded pieces of at most 256 KiB each, made as they are taken: a small piece may hold a
        hundred times its size. Raises `UpstreamBroken` or `TooLarge`."""
        self._taken += len(piece)
        while piece:
            if self._inflate.eof:
                self._next_member()
            try:
                decoded = self._inflate.decompress(piece, 256 * 1024)
            except zlib.error as error:
                raise UpstreamBroken("a compressed document is damaged", code="bad_encoding") from error
            piece = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._judge(len(decoded))
            if decoded:
                yield decoded

    def finish(self) -> bytes:
        """The last decoded bytes. Raises `UpstreamBroken` unless the stream came to its own end."""
        rest = self._inflate.flush()
        self._judge(len(rest))
        if not self._inflate.eof:
            raise UpstreamBroken("a compressed document ends early", code="short_body")
        return rest

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise TooLarge("a compressed document has too many members", code="bomb")
        self._inflate = zlib.decompressobj(self._window_bits)

    def _judge(self, size: int) -> None:
        self._given += size
        if self._given > self._max_bytes:
            raise TooLarge("a compressed document is larger than the limit", code="bomb")
        if self._given > RATIO_SLACK_BYTES + self._taken * self._max_ratio:
            raise TooLarge("a compressed document expands too much", code="bomb")
