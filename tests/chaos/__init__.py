"""An upstream that can do everything wrong, and content whose every byte can be checked."""

from .oracle import Oracle, oracle
from .server import Chaos, Exchange, HangUp, Seen

__all__ = ["Chaos", "Exchange", "HangUp", "Oracle", "Seen", "oracle"]
