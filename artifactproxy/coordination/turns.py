"""Tasks of one process that want the same thing take turns, in the order in which they came."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """One holder per key; keys that nobody wants are forgotten."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    async def take(self, key: str, deadline: float) -> bool:
        """False when it is not ours by `deadline`, in the loop's time; one that is past still takes what
        is free. Undo with `give`."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        taken = False
        try:
            async with asyncio.timeout_at(deadline):
                taken = await turn.lock.acquire()
        except TimeoutError:
            pass  # told by the answer
        finally:
            if not taken:
                self._leave(key, turn)
        return taken

    def give(self, key: str) -> None:
        turn = self._turns[key]
        turn.lock.release()
        self._leave(key, turn)

    def _leave(self, key: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[key]
