"""Application Auto Scaling, 2016-02-06, of endpoint variants' instance counts: scalable targets, their
policies, scheduled actions and activities. Nothing is scaled here; the scaler is woken after each change.
"""

from ebbtide.api.application_autoscaling.activities import describe_scaling_activities
from ebbtide.api.application_autoscaling.policies import (
    delete_scaling_policy,
    describe_scaling_policies,
    get_predictive_scaling_forecast,
    put_scaling_policy,
)
from ebbtide.api.application_autoscaling.scheduled_actions import (
    delete_scheduled_action,
    describe_scheduled_actions,
    put_scheduled_action,
)
from ebbtide.api.application_autoscaling.targets import (
    deregister_scalable_target,
    describe_scalable_targets,
    list_tags_for_resource,
    register_scalable_target,
    tag_resource,
    untag_resource,
)

__all__ = [
    "delete_scaling_policy",
    "delete_scheduled_action",
    "deregister_scalable_target",
    "describe_scalable_targets",
    "describe_scaling_activities",
    "describe_scaling_policies",
    "describe_scheduled_actions",
    "get_predictive_scaling_forecast",
    "list_tags_for_resource",
    "put_scaling_policy",
    "put_scheduled_action",
    "register_scalable_target",
    "tag_resource",
    "untag_resource",
]
