"""Heads and framings that no honest server sends, as raw bytes."""

from __future__ import annotations

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _length(*fields: bytes, body: bytes = b"hello") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


# Refused with the head, or at the latest before the body seems complete.
BAD_FRAMINGS: dict[str, bytes] = {
    "length and chunked": _length(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "chunked and length": _length(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "two lengths": _length(b"Content-Length: 5", b"Content-Length: 6"),
    "two equal lengths": _length(b"Content-Length: 5", b"Content-Length: 5"),
    "length list": _length(b"Content-Length: 5, 5"),
    "signed length": _length(b"Content-Length: +5"),
    "negative length": _length(b"Content-Length: -5"),
    "hex length": _length(b"Content-Length: 0x5"),
    "underscored length": _length(b"Content-Length: 5_0"),
    "empty length": _length(b"Content-Length: "),
    "huge length": _length(b"Content-Length: 99999999999999999999999"),
    "unknown coding": _length(b"Transfer-Encoding: xchunked"),
    "chunked then identity": _length(b"Transfer-Encoding: chunked, identity"),
    "gzip then chunked": _length(b"Transfer-Encoding: gzip, chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "coding twice": _length(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "chunk size not hex": _CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": _CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk size signed": _CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk size prefixed": _CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size overflows": _CHUNKED + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": _CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
    "cut in a chunk": _CHUNKED + b"5\r\nhel",
    "cut before the terminator": _CHUNKED + b"5\r\nhello\r\n",
    "cut in the terminator": _CHUNKED + b"5\r\nhello\r\n0\r\n",
    "body cut": _length(b"Content-Length: 50"),
    "body too long": _length(b"Content-Length: 3"),
}

BAD_HEADS: dict[str, bytes] = {
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "old http": b"<html>hello</html>\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of letters": b"HTTP/1.1 two OK\r\n\r\n",
    "version": b"HTTP/9.9.9 200 OK\r\n\r\n",
    "header without colon": b"HTTP/1.1 200 OK\r\nX-Broken\r\n\r\n",
    "space in a name": b"HTTP/1.1 200 OK\r\nContent Length: 5\r\n\r\nhello",
    "nul in a value": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "bare cr": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "header of 9 KB": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
    "200 headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: y\r\n" % n for n in range(200))
    + b"Content-Length: 0\r\n\r\n",
    "status line of 9 KB": b"HTTP/1.1 200 " + b"a" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
    "unasked upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
}

HOSTILE_HEADERS: dict[str, str] = {
    "Set-Cookie": "session=stolen; Path=/",
    "Content-Security-Policy": "script-src *",
    "Refresh": "0; url=http://evil.example/",
    "Access-Control-Allow-Origin": "*",
    "Link": "<http://evil.example/>; rel=preload",
    "Alt-Svc": 'h3="evil.example:443"',
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "Clear-Site-Data": '"*"',
    "Service-Worker-Allowed": "/",
    "Connection": "X-Secret",
    "X-Secret": "1",
    "Proxy-Authenticate": 'Basic realm="us"',
    "WWW-Authenticate": 'Bearer realm="http://evil.example/token"',
    "Content-Disposition": 'inline; filename="../../evil"',
}
