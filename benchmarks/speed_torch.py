"""The network of the user's script, and its training, in eager PyTorch; for machines that have it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}  # Keras's defaults, in PyTorch's terms


def pad_same(sizes: Sequence[int], strides: Sequence[int]) -> list[int]:
    """What 'same' padding of TensorFlow adds before and after each axis for kernels of 3; last axis first, as
    `nn.functional.pad` wants it."""
    padding = []
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
        padding += [total // 2, total - total // 2]
    return padding


class SameConv(nn.Module):
    """A 3 x 3 x 3 convolution as Keras pads it."""

    def __init__(self, inputs: int, filters: int, strides: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv, self.strides = nn.Conv3d(inputs, filters, 3, strides), strides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.pad(x, pad_same(x.shape[2:], self.strides)))


def max_pool(x: torch.Tensor) -> torch.Tensor:
    padded = nn.functional.pad(x, pad_same(x.shape[2:], (2, 2, 2)), value=float("-inf"))
    return nn.functional.max_pool3d(padded, 3, 2)


def average_pool(x: torch.Tensor) -> torch.Tensor:
    """Padding is not counted."""
    padding = pad_same(x.shape[2:], (2, 2, 2))
    counts = nn.functional.pad(torch.ones_like(x[:1, :1]), padding)
    pool = nn.functional.avg_pool3d
    return pool(nn.functional.pad(x, padding), 3, 2) / pool(counts, 3, 2)


class Branch(nn.Module):
    """One channel's convolutions with their shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = SameConv(1, 8, (1, 1, 1)), nn.BatchNorm3d(8, **BATCH_NORM)
        self.conv2, self.norm2 = SameConv(8, 16, (2, 2, 1)), nn.BatchNorm3d(16, **BATCH_NORM)
        self.shortcut = SameConv(8, 16, (2, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(max_pool(torch.relu(self.conv1(x))))
        return self.norm2(torch.relu(self.conv2(x))) + torch.relu(self.shortcut(x))


class Network(nn.Module):
    """Logits of four channels, each (batch, 1, depth, points, frames)."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]], classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch() for _ in shapes)
        self.conv4, self.norm4 = SameConv(64, 64, (2, 2, 2)), nn.BatchNorm3d(64, **BATCH_NORM)
        self.eval()  # or the moving averages would learn from this one row of zeros
        with torch.no_grad():
            width = self.compute_features([torch.zeros(1, 1, *shape) for shape in shapes]).numel()
        self.head = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes))

    def compute_features(self, channels: Sequence[torch.Tensor]) -> torch.Tensor:
        """What goes into the dense layers, (batch, 64, depth, points, frames)."""
        merged = torch.cat([branch(x) for branch, x in zip(self.branches, channels, strict=True)], dim=1)
        return self.norm4(average_pool(self.conv4(merged)))

    def forward(self, channels: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.head(self.compute_features(channels).flatten(1))


class Training:
    """Weights, optimiser and rows of one training; `channels` are (rows, depth, points, frames, 1)."""

    def __init__(self, channels: Sequence[np.ndarray], labels: np.ndarray, batch: int, cut: int, rate: float) -> None:
        self.channels = [torch.from_numpy(np.moveaxis(c, -1, 1).copy()) for c in channels]
        self.labels = torch.from_numpy(labels)
        self.batch, self.cut = batch, cut
        self.network = Network([c.shape[1:4] for c in channels], int(labels.max()) + 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), rate, eps=1e-7)

    def run_epoch(self) -> tuple[float, float]:
        """One pass over the rows before `cut`; loss and accuracy of the rows behind it."""
        self.network.train()
        for rows in torch.randperm(self.cut).split(self.batch):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.network([c[rows] for c in self.channels]), self.labels[rows])
            loss.backward()
            self.optimizer.step()
        self.network.eval()
        with torch.no_grad():
            ends = [*range(self.cut, len(self.labels), self.batch), len(self.labels)]
            logits = torch.cat([self.network([c[a:b] for c in self.channels]) for a, b in pairwise(ends)])
        truth = self.labels[self.cut :]
        accuracy = (logits.argmax(1) == truth).float().mean()
        return float(nn.functional.cross_entropy(logits, truth)), float(accuracy)

    def save(self, path: str) -> None:
        """Weights and the optimiser's state."""
        torch.save({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
