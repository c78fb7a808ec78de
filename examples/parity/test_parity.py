import torch
from model import Spotter


def test_the_spotter_keeps_its_parity(parity):
    torch.manual_seed(0)
    parity(Spotter(), torch.randn(2, 7, 10), axes={"frames": {0: "batch", 1: "time"}})


def test_the_spotter_keeps_its_parity_on_a_stream(parity):
    torch.manual_seed(0)
    report = parity(Spotter(), torch.randn(2, 7, 10), axes={"frames": {0: "batch", 1: "time"}}, state="lift")
    assert "passed" in {check.verdict for check in report.checks if check.property == "split"}
