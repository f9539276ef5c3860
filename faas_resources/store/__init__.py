"""Where resources live: the port every store implements, and the stores."""

from faas_resources.store.port import Applied, Event, EventType, Store

__all__ = ["Applied", "Event", "EventType", "Store"]
