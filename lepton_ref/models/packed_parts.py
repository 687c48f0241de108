"""The parts of packed matrices in a file, taken by name, and how a config's settings are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from lepton_ref.interface import HostArray
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.storage import Dense, Weight


class PartsOfFile:
    """A file's tensors, and which of them were taken as parts of packed matrices.

    Attributes:
        codes: the tensors of small floats of a byte each: name → their type, such as "F8_E4M3", and their bytes.
        used: the names that were taken.
        where: the file, for messages.
    """

    def __init__(
        self,
        tensors: Mapping[str, Weight],
        integers: Mapping[str, HostArray],
        where: str,
        codes: Mapping[str, tuple[str, HostArray]] = MappingProxyType({}),
    ) -> None:
        self.codes = codes
        self._weights = frozenset(tensors)  # the names of weights alone; others are `in` the mapping and raise
        self._tensors, self._integers = tensors, integers
        self.where = where
        self.used: set[str] = set()

    def named(self, ending: str) -> Iterator[str]:
        """The modules that have a tensor whose name ends so."""
        for name in (*self._weights, *self._integers):
            if name.endswith(ending):
                yield name.removesuffix(ending)

    def endings(self, beginning: str) -> list[str]:
        """How the names of tensors go on that begin so."""
        names = sorted((*self._weights, *self._integers))
        return [name.removeprefix(beginning) for name in names if name.startswith(beginning)]

    def has(self, name: str) -> bool:
        """Whether the file has this tensor."""
        return name in self._weights or name in self._integers or name in self.codes

    def is_integer(self, name: str) -> bool:
        """Whether the file has this tensor as integers."""
        return name in self._integers

    def floats(self, name: str) -> Dense:
        """Floating-point numbers.

        Raises:
            WeightsError: not in the file, or integers.
        """
        self._require(name)
        stored = self._tensors[name] if name in self._weights else None
        if not isinstance(stored, Dense):
            what = self.codes[name][0] if name in self.codes else self._integers[name].dtype
            raise WeightsError(f"{self.where}: {name}: stored as {what}, but holds scales")
        self.used.add(name)
        return stored

    def integers(self, name: str) -> HostArray:
        """Integers.

        Raises:
            WeightsError: not in the file, or floating-point numbers.
        """
        self._require(name)
        if name not in self._integers:
            what = self.codes[name][0] if name in self.codes else self._tensors[name].format
            raise WeightsError(f"{self.where}: {name}: stored as {what}, but holds packed integers")
        self.used.add(name)
        return self._integers[name]

    def raw(self, name: str) -> HostArray:
        """The stored array, whatever it holds.

        Raises:
            WeightsError: not in the file.
        """
        self._require(name)
        return self.integers(name) if name in self._integers else self.floats(name).array

    def bytes_of(self, name: str) -> HostArray:
        """The codes of small floats, uint8.

        Raises:
            WeightsError: not in the file, or of another type.
        """
        self._require(name)
        if name not in self.codes:
            raise WeightsError(f"{self.where}: {name}: holds no FP8 codes; quantization_config says that it does")
        self.used.add(name)
        return self.codes[name][1]

    def optional(self, name: str) -> HostArray | None:
        """Integers, or None where the file has no such tensor."""
        return self.integers(name) if self.has(name) else None

    def _require(self, name: str) -> None:
        if not self.has(name):
            remedy = "the file is incomplete, or quantization_config is another model's"
            raise WeightsError(f"{self.where}: tensor {name} missing; {remedy}")

    def each(self, modules: Iterable[str], make: Callable[[str], Weight]) -> dict[str, Weight]:
        """`module.weight` → the weight that `make` makes of each module.

        Raises:
            WeightsError: parts that contradict each other, or a matrix that is also there dense.
        """
        made: dict[str, Weight] = {}
        for module in modules:
            with_name = f"{module}.weight"
            try:
                made[with_name] = make(module)
            except (ConfigError, WeightsError):
                raise
            except ValueError as error:
                raise WeightsError(f"{self.where}: {module}: {error}") from error
            if self.has(with_name) and with_name not in self.used:
                raise WeightsError(f"{self.where}: {module} is stored twice, packed and as {with_name}; remove one")
        return made


def require_known(config: Reader, read: Iterable[str], idle: Iterable[str]) -> None:
    """Refuse a setting that is neither read nor known to change no value; null counts as absent.

    Raises:
        ConfigError: such a setting.
    """
    known = {"quant_method", "method", *read, *idle}
    for name in config.fields:
        if name not in known and config.has(name):
            remedy = "absent: it is not known here; remove it if it does not change what the weights mean"
            raise config.wrong(name, config.raw(name), remedy)
