"""The mistakes of `make test-f5-clients`: each still has a place in the emulator to be made."""

import pytest
from f5_controls import CONTROLS, ROOT, Control


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_control_still_applies(control: Control) -> None:
    text = (ROOT / "tests/emulator" / control.file).read_text()
    assert control.old in text
    assert control.old != control.new
