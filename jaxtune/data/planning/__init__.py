"""Which examples make up the batch of which step."""

from jaxtune.data.planning.layouts import StepPlan
from jaxtune.data.planning.plan import Plan, plan_evaluation, plan_training

__all__ = ["Plan", "StepPlan", "plan_evaluation", "plan_training"]
