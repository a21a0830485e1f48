"""How hard the simulated data are: the few numbers to turn when a network scores too high or too low.

Everything else in this package is anatomy, mechanics or the data sheet of a radar, and should not be used for tuning.
"""

# --- people: the more their styles overlap, the less a network learns about strangers -------------------------------

TEMPO_SPREAD = 0.18
"""Standard deviation of the log of a person's speed. At 0.2 a slow jumper moves at the pace of a brisk squatter."""
VIGOUR_SPREAD = 0.20
"""Standard deviation of the log of a person's amplitude. At 0.2 one in six moves less than 0.82 of the average."""
RECORDING_SPREAD = 0.12
"""The same for one person between recordings: nobody repeats an exercise exactly."""
FACING_SPREAD_DEGREES = 20.0
"""Standard deviation of the angle between a person's front and the radar. From the side, a punch has no Doppler."""
DISTANCE_METRES = (1.3, 3.6)
"""Nearest and farthest place to stand. Echoes fall with the fourth power, so far people are mostly torso."""

# --- pauses: windows that no network can know ------------------------------------------------------------------------

PAUSES_A_MINUTE = 1.5
"""Mean number of rests in a minute of exercise. A rest looks alike in all activities."""
PAUSE_SECONDS = (0.8, 2.4)
"""Shortest and longest rest. A window of 48 frames lasts 1.8 s, so the long ones fill it and set the ceiling."""

# --- sensor: how much of the movement survives -----------------------------------------------------------------------

SNR_DB_AT_ONE_METRE = 31.0
"""Mean signal-to-noise ratio of a broadside body point at 1 m. Sets how many points are missed at a distance."""
GLINT_DEGREES = (2.0, 4.0)
"""Error of azimuth and elevation from points that share a resolution cell; elevation has fewer antennas."""
VELOCITY_STEP = 0.3
"""Doppler resolution in m/s. Real recordings of this kind have 0.13 to 0.62; coarse steps hide slow limbs."""
CLUTTER_REFLECTORS = 5
"""Fixed objects in a room; each is seen in about a third of the frames, most being removed by the radar itself."""
GHOST_SHARE = 0.06
"""Share of body echoes that arrive by way of a wall as well, farther away and weaker."""
EMPTY_FRAME_CHANCE = 0.01
"""Share of frames that the radar loses altogether."""
