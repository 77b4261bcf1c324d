"""Licences of the code and of the weights, and whether they allow commercial use."""

import pytest

from convbench.catalogue import variants
from convbench.catalogue.licences import FORBIDDEN, UNKNOWN, Licences, licences


def test_fcdm_is_not_for_commercial_use() -> None:
    """The licence file of star-kwon/FCDM is that of CC BY-NC 4.0."""
    assert licences("fcdm_xl") == Licences("CC-BY-NC-4.0", None)
    assert licences("fcdm_xl@kernel=5").words == FORBIDDEN


@pytest.mark.parametrize(
    ("code", "weights", "words"),
    [
        ("MIT", None, ""),
        ("MIT", "Apache-2.0", ""),
        ("MIT", "CC-BY-NC-4.0", FORBIDDEN),
        ("CC-BY-NC", "MIT", FORBIDDEN),
        ("MIT", "not stated", UNKNOWN),
        ("none found", None, UNKNOWN),
        (None, None, UNKNOWN),
    ],
)
def test_the_stricter_of_both_decides(code: str | None, weights: str | None, words: str) -> None:
    assert Licences(code, weights).words == words
    assert Licences(code, weights).commercial == (words == "")


def test_every_model_has_a_licence_of_its_code() -> None:
    assert [id for id in variants() if licences(id).code is None] == []
    assert licences("nobody.knows:this") == Licences(None, None)
