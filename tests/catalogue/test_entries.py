"""What every entry of the catalogue must carry."""

import re
import tomllib
from collections import Counter
from importlib.resources import files

import pytest

from integrand.errors import SpecError
from integrand.spec import gates, names, row, spec_from_mapping, to_toml

STATUS = {"authors' code", "independent implementations", "derived and checked", "textbook"}
SOURCE = r"arXiv:\d{4}\.\d{4,5}|https://\S+|textbook"
GATE_FIELDS = {"title", "gate", "up", "source", "note"}


def test_names_are_unique_across_files():
    tables = [
        name
        for file in files("integrand.catalogue").iterdir()
        if file.name.endswith(".toml") and file.name != "gates.toml"
        for name in tomllib.loads(file.read_text(encoding="utf-8"))
    ]
    assert [n for n, count in Counter(tables).items() if count > 1] == []
    assert sorted(tables) == names()


def test_aliases_are_unique_and_no_row_has_that_name():
    aliases = Counter(a for n in names() for a in row(n).aliases)
    assert [a for a, count in aliases.items() if count > 1] == []
    assert set(aliases) & set(names()) == set()
    assert all(row(a).spec == row(row(a).spec.name).spec for a in aliases)


@pytest.mark.parametrize("name", names())
def test_row_says_where_it_comes_from_and_how_it_was_verified(name):
    entry = row(name)
    assert entry.title and entry.family
    assert re.fullmatch(SOURCE, entry.spec.source)
    assert entry.status in STATUS
    assert entry.note == entry.note.strip() and "\n" not in entry.note


@pytest.mark.parametrize("name", names())
def test_row_survives_a_round_trip_through_toml(name):
    spec = row(name).spec
    assert spec_from_mapping(tomllib.loads(to_toml(spec))) == spec


def test_titles_are_unique():
    assert len({row(n).title for n in names()}) == len(names())


def test_rows_that_share_their_mathematics_say_so():
    """Equal content under two names would be derived, certified and timed twice."""
    hashes = Counter(row(n).spec.sha256 for n in names())
    same = sorted(n for n in names() if hashes[row(n).spec.sha256] > 1)
    assert same == []


@pytest.mark.parametrize("name", gates())
def test_gated_form_takes_its_branches_from_rows(name):
    gate = gates()[name]
    assert set(gate) <= GATE_FIELDS and {"title", "gate", "source"} <= set(gate)
    assert re.fullmatch(SOURCE, gate["source"])
    assert {gate["gate"], gate.get("up", "identity")} <= set(names())
    assert name not in names()


def test_unknown_name_proposes_near_ones():
    with pytest.raises(SpecError, match="xielu"):
        row("xielue")
