"""Find a backend by name through entry points, ours and a third party's alike."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from lepton_ref.interface import XP_NAMES, Backend

GROUP = "lepton_ref.backends"


def names() -> tuple[str, ...]:
    """The names of the backends that are installed, sorted. A name says nothing about its library being there."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def get(backend: str | Backend, /) -> Backend:
    """The backend of that name, or the object itself once it is seen to keep the interface.

    Raises:
        ValueError: no backend of that name, or two distributions that both claim it.
        TypeError: an object that does not keep the interface; the message says what it lacks.
        ImportError: the backend's own library is missing.
    """
    if isinstance(backend, str):
        made: object = _entry(backend).load()()
    else:
        made = backend
    return _checked(made)


def _entry(name: str) -> EntryPoint:
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    claims = {point.value for point in points}
    if not points:
        raise ValueError(f"no backend named {name!r}; installed: {', '.join(names()) or 'none'}")
    if len(claims) > 1:
        raise ValueError(f"backend {name!r} is claimed by {', '.join(sorted(claims))}; uninstall all but one")
    return points[0]


def _checked(backend: object) -> Backend:
    if isinstance(backend, type):  # a class has every member that its instances have, so the next test would pass it
        raise TypeError(f"{backend.__name__} is a class; pass an instance: {backend.__name__}()")
    if not isinstance(backend, Backend):
        members = ("name", "xp", "ulps", "kernels", "from_numpy", "to_numpy", "matmul", "sum")
        lacking = [member for member in members if not hasattr(backend, member)]
        shown = " ".join(repr(backend).split())
        raise TypeError(f"{shown[:99]} is no backend: it lacks {', '.join(lacking)} (see lepton_ref.interface.Backend)")
    lacking = [name for name in XP_NAMES if not hasattr(backend.xp, name)]
    if lacking:
        raise TypeError(f"backend {backend.name!r}: its xp lacks {', '.join(lacking)}")
    return backend
