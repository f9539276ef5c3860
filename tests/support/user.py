"""Who an ordinary user is to the tests."""

from __future__ import annotations

# A user namespace whose only user owns root's files and is nobody else's root: an ordinary user who can read this checkout.
AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
