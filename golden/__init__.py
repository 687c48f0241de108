"""Golden outputs: what others computed, once, with the versions and seeds that made it. Read-only to tests."""
