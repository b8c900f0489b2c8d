"""HTML in and out: the reader against the standard library's, and that both forms say the same."""

from __future__ import annotations

import json
from html import escape
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from artifactproxy.model import Ask, Route, View
from artifactproxy.providers.pypi import HTML, PyPI, jsonpage, markup
from artifactproxy.providers.pypi.addresses import Addresses
from artifactproxy.providers.pypi.page import File, Project
from tests.providers.tables.pypi import SITE

URL = "https://index.example/simple/pot/"


class Reference(HTMLParser):
    """The standard library's reading of anchors; first of two equal attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append({name: value or "" for name, value in reversed(attrs)})


_name = st.sampled_from(["href", "HREF", "data-yanked", "data-Requires-Python", "x", "data-gpg-sig"])
_value = st.text("abc/:.=<>'\" \n&;é#-", max_size=10)


@st.composite
def _attribute(draw: st.DrawFn) -> str:
    name, value = draw(_name), draw(_value)
    spelled = escape(value)
    kind = draw(st.sampled_from(["double", "single", "bare", "none", "numeric"]))
    if kind == "none":
        return name
    space = draw(st.sampled_from(["", " ", "\n"]))
    if kind == "bare":
        bare = "".join(c for c in value if c in "abc:.#-é") or "b"
        return f"{name}={bare}"
    if kind == "numeric":
        return f'{name}{space}={space}"' + "".join(f"&#{ord(c)};" for c in value) + '"'
    quote = '"' if kind == "double" else "'"
    return f"{name}{space}={space}{quote}{spelled}{quote}"


@st.composite
def _markup(draw: st.DrawFn) -> str:
    pieces = []
    for _ in range(draw(st.integers(0, 4))):
        attributes = draw(st.lists(_attribute(), max_size=4))
        anchor = f"<{draw(st.sampled_from(['a', 'A']))} {' '.join(attributes)}{draw(st.sampled_from(['', ' ']))}>text</a>"
        wrap = draw(
            st.sampled_from(["{}", "<!-- {} -->", "<br />{}", "<script>{}</script>", "<abbr>{}", "\n{}\n"])
        )
        pieces.append(wrap.format(anchor))
    return "".join(pieces)


@given(_markup())
@settings(max_examples=400, deadline=None)
@example('<a href="a>b" title=\'x"y\'>z</a>')
@example("<a/href=x>y</a>")
@example("<!--><a href=b>y</a>-->")
def test_anchors_are_those_of_the_standard_parser(text: str) -> None:
    reference = Reference()
    reference.feed(text)
    reference.close()
    if text.startswith("<!-->"):  # older standard parsers read on; the specification closes here
        reference.found = [{"href": "b"}]
    assert [attributes for attributes, _ in markup.anchors(text, markup.Marks())] == reference.found


@pytest.mark.parametrize(
    "piece",
    ["<a ", '<a "', "<a href='", "<!--", "<script>", "<title>", "<a b=", '<a x="">', "<", "</a", "<a\n\n"],
)
def test_endless_hostile_markup_is_read_once(piece: str) -> None:
    """Would take minutes if reading a page cost more than its length."""
    assert len(list(markup.anchors(piece * 150_000, markup.Marks()))) in (0, 150_000)


def test_an_address_keeps_its_ampersands() -> None:
    ((attributes, _),) = markup.anchors('<a href="x?a=1&copy=2&amp;b=3&#x41;" title="&gt=3">', markup.Marks())
    assert attributes == {"href": "x?a=1&copy=2&b=3A", "title": ">=3"}


_text = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Cn"]),
    min_size=1,
    max_size=12,
)
_hashes = st.just({"sha256": "a" * 64}) | st.just({})


@st.composite
def _files(draw: st.DrawFn) -> File:
    filename = draw(st.sampled_from(["pot-1.zip", "pot-2.0-py3-none-any.whl", "pot-1.0+a.1.tar.gz"]))
    address = Addresses(URL).read(
        f"https://files.example/{draw(st.sampled_from(['a', 'b/c', '~d%20e']))}/{filename}"
    )
    assert address is not None
    return File(
        filename,
        address,
        hashes=draw(_hashes),
        requires_python=draw(st.none() | _text),
        yanked=draw(st.booleans() | _text),
        core_metadata=draw(st.none() | st.just(True) | st.just({"sha256": "b" * 64})),
        gpg_sig=draw(st.none() | st.booleans()),
        upload_time=draw(st.none() | st.just("2024-01-02T03:04:05.000006Z")),
        provenance=draw(st.none() | st.just("https://elsewhere.example/?a=1&copy=2")),
    )


_projects = st.builds(
    Project,
    name=st.just("pot"),
    files=st.lists(_files(), max_size=3),
    status=st.just("") | _text,
    status_reason=st.just("") | _text,
    tracks=st.just([]) | st.just(['https://a.example/<&">/']),
)


def _said(project: Project) -> list[object]:
    """All that both forms can say, addresses aside."""
    each = [
        (
            f.filename,
            f.hashes,
            f.requires_python,
            f.yanked,
            f.core_metadata,
            f.gpg_sig,
            f.upload_time,
            f.provenance,
        )
        for f in project.files
    ]
    reason = project.status_reason if project.status else ""
    return [each, project.status, reason, project.tracks, project.alternates]


@given(_projects)
@settings(max_examples=200, deadline=None)
def test_both_forms_carry_the_whole_model(project: Project) -> None:
    ours = "https://proxy.example/r/simple/pot/"
    from_html = markup.read_project(markup.write_project(project, "../../").encode(), "pot", ours)
    from_json = jsonpage.read_project(jsonpage.write_project(project, "../../"), "pot", ours)
    assert _said(from_html) == _said(from_json)
    assert _said(from_json) == _said(project)
    again = markup.read_project(markup.write_project(from_json, "../../").encode(), "pot", ours)
    assert _said(again) == _said(project)
    for got, original in zip(from_html.files, project.files, strict=True):
        assert got.address.url == f"https://proxy.example/r/{original.address.path}"


@pytest.mark.parametrize(
    "text", ['"><script>alert(1)</script>', "' onload='x", "<!--", "&lt;b&gt;", "</a><a href=x>"]
)
def test_nothing_of_upstream_becomes_markup(text: str) -> None:
    entry = {"filename": text, "url": "pot-1.zip", "hashes": {}, "yanked": text, "requires-python": text}
    status = {"status": text, "reason": text}
    body = json.dumps(
        {"files": [entry], "project-status": status, "meta": {"tracks": [f"https://x/{text}"]}}
    ).encode()
    provider = PyPI(SITE)
    route = provider.classify(Ask("py", "simple/pot/", headers={"accept": HTML}))
    assert isinstance(route, Route)
    html = provider.render(route, body, "", View(), URL).body.decode()
    assert text not in html
    assert html.count("<a ") == 1
    assert "<script" not in html
