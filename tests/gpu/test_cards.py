"""Our protocol card of a GPU."""

import pytest
from probed import check_card


def test_our_card_is_what_a_step_on_a_gpu_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    check_card("cuda", monkeypatch)
