"""What Redis does in one step, in its own language; times are its own, in milliseconds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """Every script here works on one key."""

    text: bytes
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        encoded = text.encode()
        return cls(encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest())


TAKE = Script.of("""
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[3]) ~= ARGV[3] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
"""`value, milliseconds, mine`: 1 if the key holds `value` now, else what it holds. What begins with
`mine` is a lease that this process believes to have given back; it is written over."""

EXTEND = Script.of("""
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if held then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 2
""")
"""`value, milliseconds`: 1 extended; 2 it was gone and is held anew; 0 another holds it."""

GIVE_BACK = Script.of("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
"""`value`: 1 if it was there."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

KEEP = Script.of(
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[3])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
return redis.call('PEXPIRE', KEYS[1], math.max(1, last[2] - now))
"""
)
"""`message, milliseconds, most`: remember a message for that long, at most so many of them."""

KEPT = Script.of(
    _NOW
    + """
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
for place = 2, #found, 2 do found[place] = tostring(found[place] - now) end
return found
"""
)
"""Messages that still count, each followed by its milliseconds."""
