"""File names, old and new."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from artifactproxy.providers.pypi import names


@pytest.mark.parametrize(
    ("filename", "project", "version"),
    [
        ("pot_soup-1.2.0-py3-none-any.whl", "pot-soup", "1.2.0"),
        ("pot_soup-1.2.0-7-py3-none-any.whl", "pot-soup", "1.2.0"),
        ("pot-1.0+cu118-cp311-cp311-linux_x86_64.whl", "pot", "1.0+cu118"),
        ("pot_soup-1.2.tar.gz", "pot-soup", "1.2"),
        ("pot-soup-1.2.tar.gz", "pot-soup", "1.2"),
        ("pot-2-soup-1.0.zip", "pot-2-soup", "1.0"),
        ("python-3to2-1.1.1.zip", "python-3to2", "1.1.1"),
        ("pot-1.0-1.tar.gz", "pot", "1.0-1"),
        ("pot-1.0-beta-2.tar.bz2", "pot", "1.0-beta-2"),
        ("pot-1.0.linux-x86_64.tar.gz", "pot", "1.0"),
        ("backports.windows-1.0.tar.gz", "backports-windows", "1.0"),
        ("pot-1.0-py2.7.egg", "pot", "1.0"),
        ("pot-1.0.win32-py2.7.exe", "pot", "1.0"),
        ("pot-1.0.win-amd64.exe", "pot", "1.0"),
        ("pot-1.0-1.noarch.rpm", "pot", "1.0"),
        ("pot-dev-r123.tar.gz", "pot-dev", "r123"),
        ("pot-2004b.tar.gz", "pot", "2004b"),
        ("pot-1.x.y-z.tar.gz", "pot", "1.x.y-z"),
        ("pot.zip", "pot", ""),
        ("-.zip", "-", ""),
    ],
)
def test_split(filename: str, project: str, version: str) -> None:
    assert names.split(filename) == (project, version)


def test_the_page_settles_what_the_name_leaves_open() -> None:
    assert names.split("a-1-2.zip") == ("a", "1-2")
    assert names.split("a-1-2.zip", "a-1") == ("a-1", "2")
    assert names.split("a-1-2.zip", "b") == ("a", "1-2")


_project = st.from_regex(r"[a-z]{1,4}([._-][a-z]{1,3}){0,2}", fullmatch=True)
_version = st.from_regex(r"[1-9]?[0-9](\.[0-9]){0,2}(a1|\.post2|\.dev3|\+l\.1)?", fullmatch=True)


@given(_project, _version)
def test_modern_names_are_read_as_the_reference_reads_them(project: str, version: str) -> None:
    wheel = f"{project.replace('-', '_').replace('.', '_')}-{version}-py3-none-any.whl"
    expected = parse_wheel_filename(wheel)
    got = names.split(wheel)
    assert (got[0], names.canonical_version(got[1])) == (expected[0], str(expected[1]))
    source = f"{project.replace('-', '_')}-{version}.tar.gz"
    expected_source = parse_sdist_filename(source)
    got = names.split(source)
    assert (got[0], names.canonical_version(got[1])) == (expected_source[0], str(expected_source[1]))


@given(st.text(max_size=40), st.sampled_from([".whl", ".tar.gz", ".exe", ".egg", ""]))
def test_any_text_is_split_into_something(text: str, extension: str) -> None:
    project, version = names.split(text + extension)
    assert project == canonicalize_name(project)
    assert version in text or extension == ""
    assert names.canonical_version(version) == names.canonical_version(
        names.canonical_version(version) or version
    )


def test_a_version_with_more_digits_than_python_reads_has_no_normal_form() -> None:
    assert names.canonical_version("1" * 5000) == ""
    assert names.split("pot-" + "1" * 5000 + ".zip")[0] == "pot"


@given(_project, _version)
def test_purls_are_those_of_the_library(project: str, version: str) -> None:
    name = names.normalised(project)
    library = PackageURL("pypi", name=name, version=names.canonical_version(version)).to_string()
    assert names.purl(name, version) == library
