"""A forecaster: an LSTM that predicts the next value of a series at each step."""

import torch
from torch import nn

from rnn_models._seed import seeded

FEATURES = 3


class Forecaster(nn.Module):
    """The next value of a series after each step of its history: LSTM, linear.

    Stands for models of demand, load or sensors. There is a prediction at every step and not at the last alone, so the
    model can be scored along a whole history, and served one measurement at a time; its state stays inside.
    """

    def __init__(self, features: int = FEATURES, hidden_size: int = 24) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """Predict one step ahead of each step.

        Args:
            history: measurements, float32, (batch, sequence, features).

        Returns:
            Predictions, float32, (batch, sequence, 1): at step t the value expected at t + 1, from steps 0 to t.
        """
        hidden, _ = self.lstm(history)
        prediction: torch.Tensor = self.linear(hidden)
        return prediction


@seeded(0)
def forecaster() -> Forecaster:
    """A forecaster of the next value at each step, whose state stays inside: LSTM, linear.

    Takes history (batch, sequence, 3), gives prediction (batch, sequence, 1), float32.
    """
    return Forecaster().eval()


@seeded(1)
def forecaster_example() -> dict[str, torch.Tensor]:
    """Noise about zero: history float32 (batch 4, sequence 9, features 3)."""
    return {"history": torch.randn(4, 9, FEATURES)}
