"""What a plan says of an image -> what the restoration has to know of it."""

from atlasgs_bids.bids.plan.targets import StackPlan
from atlasgs_bids.restoration.stack import StackInput


def stack_input(stack: StackPlan) -> StackInput:
    """The planned stack without its place in the dataset."""
    return StackInput(stack.source.path.name, stack.geometry, stack.source.sidecar, stack.transforms)
