"""Who moves, in what manner, and where: everything about a recording that stays the same from frame to frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.simulate.difficulty import (
    DISTANCE_METRES,
    FACING_SPREAD_DEGREES,
    PAUSE_SECONDS,
    PAUSES_A_MINUTE,
    RECORDING_SPREAD,
    TEMPO_SPREAD,
    VIGOUR_SPREAD,
)

BEARING_DEGREES = 12.0  # people keep near the middle of the radar's view, which is about 50 degrees to each side


@dataclass(frozen=True)
class Body:
    """Lengths in metres, after the shares of body height in Drillis and Contini (1966)."""

    trunk: float
    head: float
    shoulder_half_width: float
    hip_half_width: float
    upper_arm: float
    forearm: float  # with half of the hand, where the echo of a hand comes from
    thigh: float
    shank: float
    ankle_height: float


@dataclass(frozen=True)
class Manner:
    """How one person does one activity, in one recording. Factors are relative to the average person."""

    tempo: float  # factor on repetitions a second
    vigour: float  # factor on amplitudes
    arms: float  # 0 to 1: from arms kept quiet or low to arms used fully
    stance: float  # how far each thigh is spread when standing, radians
    bend: float  # how far the knees are bent when standing, radians
    right_handed: bool
    both_arms: bool


@dataclass(frozen=True)
class Scene:
    """Place, time and rests of one recording. The radar is at the origin, x ahead of it and y to its left (metres)."""

    place: NDArray[np.float64]  # (2,): x, y of the person
    facing: float  # direction of the person's front, radians; pi looks at the radar
    first_cycle: float  # repetitions done before the recording starts
    drift_phase: float
    walk_axes: NDArray[np.float64]  # (2,): half axes of the loop that a walker follows
    pause_centres: NDArray[np.float64]  # (pauses,) seconds
    pause_lengths: NDArray[np.float64]  # (pauses,) seconds


def draw_body(rng: np.random.Generator) -> Body:
    """A person between 1.5 m and 1.95 m tall, each limb up to some 8 % longer or shorter than that height suggests."""
    height = float(np.clip(rng.normal(1.70, 0.10), 1.50, 1.95))
    shares = np.array([0.288, 0.182, 0.129, 0.0955, 0.186, 0.200, 0.245, 0.246, 0.039])
    lengths = height * shares * np.clip(rng.normal(1.0, 0.04, shares.size), 0.92, 1.08)
    return Body(*(float(length) for length in lengths))


def draw_manner(person: np.random.Generator, recording: np.random.Generator) -> Manner:
    """A person's manner in one activity (from `person`), as it turns out in one recording (from `recording`).

    `person` must be a fresh generator of the same seed for each recording of that person and activity.
    """
    tempo = person.normal(0.0, TEMPO_SPREAD) + recording.normal(0.0, RECORDING_SPREAD)
    vigour = person.normal(0.0, VIGOUR_SPREAD) + recording.normal(0.0, RECORDING_SPREAD)
    arms = person.uniform() + recording.normal(0.0, RECORDING_SPREAD)
    return Manner(
        tempo=float(np.exp(tempo)),
        vigour=float(np.exp(vigour)),
        arms=float(np.clip(arms, 0.0, 1.0)),
        stance=float(person.uniform(0.02, 0.18)),
        bend=float(person.uniform(0.0, 0.25)),
        right_handed=bool(person.uniform() < 0.85),
        both_arms=bool(person.uniform() < 0.3),
    )


def draw_scene(rng: np.random.Generator, seconds: float) -> Scene:
    """A recording of `seconds`, somewhere in front of the radar."""
    distance = rng.uniform(*DISTANCE_METRES)
    angle = np.deg2rad(np.clip(rng.normal(0.0, BEARING_DEGREES), -30.0, 30.0))
    place = distance * np.array([np.cos(angle), np.sin(angle)])
    pauses = rng.poisson(PAUSES_A_MINUTE * seconds / 60.0)
    return Scene(
        place=place,
        facing=float(np.pi + angle + np.deg2rad(rng.normal(0.0, FACING_SPREAD_DEGREES))),
        first_cycle=float(rng.uniform(0.0, 1.0)),
        drift_phase=float(rng.uniform(0.0, 2.0 * np.pi)),
        walk_axes=distance * rng.uniform(0.15, 0.4, 2),  # stays clear of the radar
        pause_centres=rng.uniform(0.0, seconds, pauses),
        pause_lengths=rng.uniform(*PAUSE_SECONDS, pauses),
    )
