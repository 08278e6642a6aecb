"""
Record types as labels of metrics, read from routing keys.

A file of health records is announced with `health.processing.<record type>.<priority>`, so neither
relay nor consumer looks into a body.

Invariant: a label is one of the configured types, `other`, or empty. Any publisher may write any
routing key, so a type that a process has learned from one could be a name, and each could be a
series of its own; besides, two processes would learn different ones.
"""

from collections.abc import Iterable

from outbox.event import Priority
from outbox.health_data import ROUTING_KEY_PREFIX

OTHER = "other"
"""The label of a routing key of health data whose record type is not configured."""

NONE = ""
"""The label of any other routing key; to Prometheus a series without the label is the same."""

HEALTH_CONNECT = (
    "ActiveCaloriesBurnedRecord",
    "ActivityIntensityRecord",
    "BasalBodyTemperatureRecord",
    "BasalMetabolicRateRecord",
    "BloodGlucoseRecord",
    "BloodPressureRecord",
    "BodyFatRecord",
    "BodyTemperatureRecord",
    "BodyWaterMassRecord",
    "BoneMassRecord",
    "CervicalMucusRecord",
    "CyclingPedalingCadenceRecord",
    "DistanceRecord",
    "ElevationGainedRecord",
    "ExerciseSessionRecord",
    "FloorsClimbedRecord",
    "HeartRateRecord",
    "HeartRateVariabilityRmssdRecord",
    "HeightRecord",
    "HydrationRecord",
    "IntermenstrualBleedingRecord",
    "LeanBodyMassRecord",
    "MenstruationFlowRecord",
    "MenstruationPeriodRecord",
    "MindfulnessSessionRecord",
    "NutritionRecord",
    "OvulationTestRecord",
    "OxygenSaturationRecord",
    "PlannedExerciseSessionRecord",
    "PowerRecord",
    "RespiratoryRateRecord",
    "RestingHeartRateRecord",
    "SexualActivityRecord",
    "SkinTemperatureRecord",
    "SleepSessionRecord",
    "SpeedRecord",
    "StepsCadenceRecord",
    "StepsRecord",
    "TotalCaloriesBurnedRecord",
    "Vo2MaxRecord",
    "WeightRecord",
    "WheelchairPushesRecord",
)
"""The record types of Android's Health Connect."""


class RecordTypes:
    """The labels of *names*, spelled as there; routing keys have them in small letters."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        # Whole routing keys, so that a message costs one look-up.
        self._labels = {
            f"{ROUTING_KEY_PREFIX}{name.lower()}.{priority.value}": name
            for name in names or HEALTH_CONNECT
            for priority in Priority
        }

    def label(self, routing_key: object) -> str:
        """The label of *routing_key*, as a message or a row has it."""
        if not isinstance(routing_key, str):
            return NONE
        found = self._labels.get(routing_key)
        if found is not None:
            return found
        return OTHER if routing_key.startswith(ROUTING_KEY_PREFIX) else NONE
