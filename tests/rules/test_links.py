"""`Link` headers as registries write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.links import next_link, next_query


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ('</v2/a/tags/list?n=2&last=v2>; rel="next"', "n=2&last=v2"),
        ("<https://other.example/v2/a/tags/list?last=v2&n=2>; rel=next", "last=v2&n=2"),
        ('<?n=1>; rel="next"', "n=1"),
        ('</a?x=1>; rel="prev", </a?x=2>; rel="next"', "x=2"),
        ('</a?x=2>; title="a, b"; rel="start NEXT"', "x=2"),
        ('</a>; rel="next"', ""),
        ('</a?x=2>; rel="last"', ""),
        ("</a?x=2>", ""),
        ("garbage", ""),
        ("", ""),
        ('</a?x=\u00e9>; rel="next"', ""),
        ('<//[/?x=1>; rel="next"', ""),
        (f'</a?x={"1" * 5000}>; rel="next"', ""),
    ],
)
def test_the_next_page(link: str, query: str) -> None:
    assert next_query(link) == query


@given(st.text(max_size=80) | st.text(alphabet='<>;,= "relnxt/?&', max_size=80))
def test_what_is_kept_can_stand_in_a_header(link: str) -> None:
    query = next_query(link)
    assert query.isascii()
    assert not set(query) & set(' "<>\r\n#')
    if query:
        assert next_query(next_link("https://proxy.example/v2/a/tags/list", query)) == query
