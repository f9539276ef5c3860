"""The status of an Image in a cluster: an entry of each node, and what they say together.

A node reports as if it were alone: `on_node` is what it sees, `reported` puts what it says into its entry and sums all entries up anew. The
sum follows from the entries alone, so nodes that report one after the other never contradict each other, whoever writes.

A condition is as the node says that is worst off: one False is False, else one Unknown (or a node that says nothing) is Unknown, else it is
True, with the words of a node that is still updating as long as there is one. Digest, revision and message are those of the same node, so
that they fit together. A node that is not heard of any more is shown, and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from faas_resources.conditions import Condition, ConditionReport, ImageStatus, NodeStatus, Progress, StatusPatch, Truth, merged

_BADNESS = {Truth.FALSE: 0, Truth.UNKNOWN: 1, Truth.TRUE: 2}
_LOST = "NodeLost"
_ON_THE_WAY = "Updating"  # the reason of what is true of the revision before, and not yet of the one that is wanted
_MESSAGE_MAX = 4096  # of a node: a thousand entries of the longest that Kubernetes takes would fit into no object


def on_node(status: ImageStatus, node: str) -> ImageStatus:
    """The status as that node reported it."""
    entry = next((entry for entry in status.nodes if entry.name == node), None)
    return ImageStatus(**_progress(entry)) if entry is not None else ImageStatus()


def reported(status: ImageStatus, node: str, patch: StatusPatch, now: datetime | None = None) -> ImageStatus:
    """The status after a report of that node; equal to `status` if it says nothing new."""
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    mine = merged(on_node(status, node), _short(patch), now)
    entries = {entry.name: entry for entry in status.nodes} | {node: NodeStatus(name=node, **_progress(mine))}
    return _summed(status, [entries[name] for name in sorted(entries)], now)


def lost(status: ImageStatus, node: str) -> StatusPatch | None:
    """What is to be said in the place of a node that is not heard of any more; None if it has said nothing of this."""
    if not any(entry.name == node for entry in status.nodes):
        return None
    text = f"node {node} has not been heard of; what it said last may be no more"
    report = ConditionReport(type="Ready", status=Truth.UNKNOWN, reason=_LOST, message=text)
    return StatusPatch(conditions=(report,))


def without(status: ImageStatus, node: str, now: datetime | None = None) -> ImageStatus:
    """The status when that node is given up."""
    entries = [entry for entry in status.nodes if entry.name != node]
    return _summed(status, entries, (now or datetime.now(UTC)).replace(microsecond=0)) if entries else ImageStatus()


def _summed(before: ImageStatus, entries: Sequence[NodeStatus], now: datetime) -> ImageStatus:
    silent = [entry for entry in entries if any(condition.reason == _LOST for condition in entry.conditions)]
    heard = [entry for entry in entries if entry not in silent] or entries
    worst = min(heard, key=_standing)
    types = list(dict.fromkeys(condition.type for entry in heard for condition in entry.conditions))
    conditions = tuple(_condition(type_, heard, before.condition(type_), now) for type_ in types)
    message = worst.message
    if silent and heard is not entries:
        message = f"{message or ''} (not heard of: {', '.join(entry.name for entry in silent)})".strip()
    return ImageStatus(**{**_progress(worst), "message": message, "conditions": conditions, "nodes": tuple(entries)})


def _standing(entry: NodeStatus) -> tuple[int, list[int], str]:
    """How well a node is off; the generation that it has come to counts most."""
    return entry.observed_generation or 0, sorted(_BADNESS[condition.status] for condition in entry.conditions), entry.name


def _far(condition: Condition) -> tuple[int, int, bool]:
    """How far a node has come with one condition."""
    return _BADNESS[condition.status], condition.observed_generation, condition.reason != _ON_THE_WAY


def _condition(type_: str, entries: Sequence[NodeStatus], before: Condition | None, now: datetime) -> Condition:
    said = [(entry.name, condition) for entry in entries for condition in entry.conditions if condition.type == type_]
    name, worst = min(said, key=lambda pair: (*_far(pair[1]), pair[0]))
    truth, message = worst.status, worst.message
    if truth is Truth.TRUE and len(said) < len(entries):
        truth = Truth.UNKNOWN
        message = f"{len(said)} of {len(entries)} nodes have said so: {message}"
    elif truth is not Truth.TRUE and len(entries) > 1:
        alike = sum(condition.status is truth for _, condition in said)
        message = f"{message} (node {name}, as on {alike} of {len(entries)} nodes)"
    since = before.last_transition_time if before is not None and before.status is truth else now
    return worst.model_copy(update={"status": truth, "message": message, "last_transition_time": since})


def _progress(found: Progress) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Progress.model_fields}


def _short(patch: StatusPatch) -> StatusPatch:
    conditions = tuple(report.model_copy(update={"message": report.message[:_MESSAGE_MAX]}) for report in patch.conditions)
    short = {"message": patch.message[:_MESSAGE_MAX]} if patch.message is not None else {}
    return patch.model_copy(update={"conditions": conditions, **short})
