"""The settings: every key with its type, bounds, default and one sentence. The JSON Schema and the docs are made from
here; the string below a key is its sentence there (see `sentences`)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1)]
RunName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="up to 100 letters, digits, '.', '_' and '-' that start with a letter or digit",
    ),
]
Size = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,3})? ?[kKMGT]i?B$",
        description="a size with a unit of kB to TB or KiB to TiB, such as 500MB or 2GiB",
    ),
]
ChannelRole = Literal["position", "velocity", "intensity", "range", "other"]


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown keys, no infinities."""

    # Built when it is first used, as a part of what is: most are never used by themselves.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class SimulateConfig(Section):
    """A simulated data set, generated in memory from its own seed."""

    windows: int = Field(2000, ge=12, le=200_000)
    """Rows to generate, shared evenly between the six activities."""
    subjects: int = Field(24, ge=2, le=10_000)
    """Simulated people; each is one `group`, with a body and habits of their own."""
    points: int = Field(64, ge=4, le=1024)
    """Point slots a frame."""
    frames: int = Field(48, ge=4, le=1024)
    """Frames a window."""
    stride: int = Field(16, ge=1, le=1024)
    """Frames between the starts of neighbouring windows of a recording; below `frames` they overlap."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the people, their movements and the sensor noise."""


class DataConfig(Section):
    """Where the rows come from."""

    path: Name | Annotated[tuple[Name, ...], Field(strict=False, min_length=1)] | None = None
    """An HDF5 file, a list of files (order kept) or a glob (sorted); relative to the working directory."""
    simulate: SimulateConfig | None = None
    """Settings of the simulator, instead of `path`."""
    channels: Annotated[tuple[Name, Name, Name, Name], Field(strict=False)] = (
        "channel_1", "channel_2", "channel_3", "channel_4",
    )  # fmt: skip
    """Names of the four channel datasets, in the order of the network's branches."""
    labels: Name = "label"
    """Name of the label dataset."""
    groups: Name | None = "auto"
    """Dataset of what must not be shared between parts (a subject): `auto` takes `group` if present; null for none."""
    recordings: Name | None = "auto"
    """Dataset of the unit in which `start_frame` counts: `auto` takes `recording` if present; null for none."""
    groups_per_file: bool = False
    """Whether equal group values in different files mean different groups."""
    memory_limit: Annotated[int, Field(ge=1)] | Size | None = None
    """How much memory rows may take: bytes, or as in 500MB or 2GiB; null for half of what is available. Training rows
    beyond it are streamed from the files, in another order than rows in memory."""

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.path is None) == (self.simulate is None):
            which = "neither is" if self.path is None else "both are"
            raise ValueError(f"set either 'path' or 'simulate'; {which} set")
        return self


class SplitConfig(Section):
    """Which rows train, which validate, which are never touched."""

    strategy: Literal["auto", "stratified", "stratified_group", "tail", "file"] = "auto"
    """`auto` is `stratified_group` where groups exist, else `stratified`; `tail` takes the last rows, as Keras does."""
    validation_fraction: float = Field(0.2, ge=0.001, le=0.5)
    """Share of rows for validation; the rows are cut into round(1 / fraction) folds."""
    fold: int = Field(0, ge=0)
    """Which fold validates."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the shuffles that the split is chosen from."""
    test_fraction: float | None = Field(None, ge=0.001, le=0.5)
    """Share of rows for a third, group-disjoint part that training and selection never touch."""
    file: Name | None = None
    """A `split.json` to read when `strategy` is `file`."""
    allow_missing_classes: bool = False
    """Train even when a class has no training row."""

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if (self.strategy == "file") != (self.file is not None):
            raise ValueError("'file' names a split.json and goes with 'strategy: file', and only with it")
        folds = round(1 / self.validation_fraction)
        if self.strategy not in ("tail", "file") and self.fold >= folds:
            raise ValueError(
                f"'fold' is {self.fold}, but validation_fraction {self.validation_fraction} "
                f"makes {folds} folds (0 to {folds - 1})"
            )
        return self


class ModelConfig(Section):
    """The network."""

    name: Literal["pointcnn", "pointcnn_original", "pointnet_tcn"] = "pointcnn"
    """`pointcnn`; `pointcnn_original`, the same as first published, with its flaws; `pointnet_tcn`, indifferent to
    point order."""
    normalize: Literal["masked", "standard", "none"] = "masked"
    """Input normalisation from training rows: over filled point slots (empty ones stay zero), over all slots, or
    none."""
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    """Dropout before the output layer."""
    fast: bool = True
    """Compute with the lowered convolutions and fused batch normalisation (same function, same weights); false: stock
    Keras layers."""


class AugmentConfig(Section):
    """Random changes to training rows, in raw units. Padding stays padding, and range follows position."""

    channel_roles: Annotated[
        tuple[ChannelRole, ChannelRole, ChannelRole, ChannelRole], Field(strict=False)
    ] = ("position", "velocity", "intensity", "range")  # fmt: skip
    """What each channel holds, so that each change touches the right one."""
    point_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Each window loses a random share of its points, up to this one."""
    position_jitter: float = Field(0.0, ge=0.0)
    """Standard deviation of noise on each coordinate of each point (metres)."""
    position_shift: float = Field(0.0, ge=0.0)
    """Each window is moved along each axis by up to this much (metres)."""
    scale: float = Field(0.0, ge=0.0, lt=1.0)
    """Each window's positions are multiplied by a factor between 1 - scale and 1 + scale."""
    intensity_jitter: float = Field(0.0, ge=0.0)
    """Standard deviation of noise on the intensity of each point (dB)."""
    intensity_shift: float = Field(0.0, ge=0.0)
    """Each window's intensities are raised or lowered together by up to this much (dB)."""
    frame_roll: int = Field(0, ge=0)
    """Each window is rolled in time, end to start, by up to this many frames."""
    mirror: Literal["x", "y", "z"] | None = None
    """Half of the windows are mirrored along this axis (the first, second or third coordinate)."""


class EarlyStoppingConfig(Section):
    """Stop when the monitored value no longer improves."""

    patience: int = Field(10, ge=1)
    """Epochs without improvement before training stops."""


class TrainConfig(Section):
    """How the weights are found."""

    epochs: int = Field(30, ge=1, le=100_000)
    """Passes over the training rows."""
    batch_size: int = Field(50, ge=1, le=65_536)
    """Rows a step, of all devices together."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """`sgd` has Nesterov momentum 0.9."""
    learning_rate: float = Field(1e-3, gt=0.0, le=10.0)
    """Highest learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls to zero over all epochs."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs in which the rate rises from zero to its highest."""
    weight_decay: float = Field(0.0, ge=0.0, le=1.0)
    """Decoupled weight decay of kernels; `adamw` only."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each label spread over all classes."""
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0.0)]] | None = None
    """`balanced` weights classes by inverse frequency; or a weight for each class by name."""
    early_stopping: EarlyStoppingConfig | None = None
    """Stop early, or null to run all epochs."""
    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    """What early stopping watches and what chooses the best epoch."""
    keep: Literal["best", "last"] = "best"
    """Which weights the run stands for."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Arithmetic; the mixed kinds are for GPUs."""
    device: Literal["auto", "cpu", "gpu", "multi"] = "auto"
    """`auto` takes a GPU if there is one; `gpu` fails without one; `multi` shares each batch between all GPUs of this
    machine, and fails where there are fewer than two."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads that compute on the CPU; null for all CPUs. The last bits of the weights depend on their number."""
    calibrate: bool = False
    """Fit a temperature on the validation rows when training ends, into calibration.json; predictions stay as they are
    but where --calibrated asks for it."""
    deterministic: bool = False
    """Use only operations that give the same bits each time. On a GPU needed for equal weights from equal configs, and
    slower, since it does without XLA. CPUs give equal bits without it; there it costs nothing that can be measured."""

    @property
    def selects_on_validation(self) -> bool:
        """Whether validation rows choose the kept weights: the best epoch, or the epoch at which training stops."""
        return self.keep == "best" or self.early_stopping is not None

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"'weight_decay' needs 'optimizer: adamw'; the optimizer is {self.optimizer!r}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"'warmup_epochs' ({self.warmup_epochs}) must be smaller than 'epochs' ({self.epochs})")
        return self


class TrackConfig(Section):
    """Where the curves of a training are shown, besides history.csv."""

    tensorboard: bool = False
    """Write an event file for TensorBoard into the run's folder `tensorboard`; needs the package tensorboard."""
    mlflow: Name | None = None
    """Address of an MLflow server or database, such as http://localhost:5000; needs the package mlflow-skinny."""


class SearchConfig(Section):
    """What values of one key are tried: numbers from `low` to `high`, or one of `choices`."""

    low: float | None = None
    """The lowest number that is tried."""
    high: float | None = None
    """The highest number that is tried."""
    log: bool = False
    """Try numbers evenly over their logarithms, as for a learning rate."""
    choices: Annotated[tuple[Any, ...], Field(strict=False, min_length=2)] | None = None
    """The values that are tried, instead of numbers between two ends."""

    @model_validator(mode="after")
    def _consistent(self) -> "SearchConfig":
        ends = (self.low is not None) + (self.high is not None)
        if ends != (0 if self.choices is not None else 2):
            raise ValueError("give both 'low' and 'high', or 'choices' alone")
        if self.choices is not None and self.log:
            raise ValueError("'log' goes with 'low' and 'high', not with 'choices'")
        if self.choices is not None and any(value in self.choices[:i] for i, value in enumerate(self.choices)):
            raise ValueError("'choices' holds a value twice")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"'low' ({self.low:g}) must be smaller than 'high' ({self.high:g})")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"'log' needs 'low' above 0; it is {self.low:g}")
        return self


class TuneConfig(Section):
    """The search of `pointcnn tune`; every other command goes by the config's own values."""

    trials: int = Field(20, ge=1, le=100_000)
    """Trials in all, of all processes that share the directory."""
    folds: int = Field(3, ge=2, le=1000)
    """Folds that score a trial: the first so many of those that `split` makes."""
    metric: Literal["accuracy", "balanced_accuracy", "log_loss"] = "accuracy"
    """What is compared: its mean over the folds."""
    prune: bool = True
    """Break off a trial that is worse than the median of the others after as many folds and epochs."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the values that are tried."""
    space: dict[str, SearchConfig] = Field(
        min_length=1, examples=[{"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}]
    )
    """The keys of `model`, `augment` and `train` to search, dotted, and the values of each to try."""


class Config(Section):
    """One training, completely described."""

    name: RunName | None = None
    """Name of the folder under runs/; null takes the file's name."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of initialisation, batch order, augmentation and dropout; never decides which rows train."""
    data: DataConfig
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig | None = None
    """Augmentation of the training rows; null for none."""
    train: TrainConfig = TrainConfig()
    track: TrackConfig | None = None
    """Curves for TensorBoard or MLflow; null for none. Never changes what is trained."""
    tune: TuneConfig | None = None
    """The search of `pointcnn tune`, or null; no other command looks at it, and no run keeps it."""
