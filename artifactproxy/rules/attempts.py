"""How often somebody may show what proves nothing before it is not looked at any more: a bucket of
attempts for each address, filled evenly."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import Final

REMEMBERED: Final = 10_000  # addresses; of more, those are forgotten that failed longest ago
_MINUTE: Final = 60.0


class Attempts:
    """`most` failures a minute for one address; 0: as many as they like. Times are monotonic seconds."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may fail again, 0 for now."""
        left = self._of(_household(address), now)
        return 0.0 if left >= 1.0 or not self._most else (1.0 - left) * _MINUTE / self._most

    def failed(self, address: str, now: float) -> float:
        """Count one more; how long it has to wait if that was too many, and then it is not counted: who
        keeps trying does not wait longer."""
        waiting = self.wait(address, now)
        if self._most and not waiting:
            house = _household(address)
            self._left[house] = (self._of(house, now) - 1.0, now)
            self._left.move_to_end(house)
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        return waiting

    def _of(self, house: str, now: float) -> float:
        left, at = self._left.get(house, (self._most, now))
        return min(self._most, left + max(0.0, now - at) * self._most / _MINUTE)


@lru_cache(maxsize=1024)
def _household(address: str) -> str:
    """Whoever has an IPv6 address has 2^64 of them."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
