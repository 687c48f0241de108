"""What a config may claim before anything is built from it: no more than the file can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.storage import Weight

LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "block_count")
"""The fields that say how many layers there are. A layer has a tensor at least."""

WIDTHS = ("head_dim", "hidden_size", "attention.key_length", "embedding_length")
"""The fields by which lists of RoPE's factors are sized. Some matrix has at least as many rows or columns."""


def require_plausible(fields: Reader, tensors: Mapping[str, Weight]) -> None:
    """Refuse a config of more layers than the file has tensors, or of heads wider than any.

    Lists of ops and of factors are built before they are compared with the tensors; a config that claims 10⁹ layers
    would fill the memory first.

    Raises:
        ConfigError: such a config.
    """
    widest = max((n for name in tensors for n in tensors[name].shape), default=0)
    for names, limit, what in (
        (LAYERS, len(tensors), "the number of tensors in the file"),
        (WIDTHS, widest, "the longest axis of any tensor in the file"),
    ):
        for name in names:
            value = fields.raw(name, 0)
            if isinstance(value, int) and value > limit:
                raise fields.wrong(name, value, f"at most {limit}, {what}")


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the file before the message of a config's own checks, which do not know it."""
    try:
        yield
    except ConfigError as error:
        if str(error).startswith(where):
            raise
        raise ConfigError(f"{where}: {error}") from error
