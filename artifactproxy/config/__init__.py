"""The configuration: one YAML file, overridden by the environment, overridden by flags.

`strict` reads YAML without surprises, `units` sizes and durations, `schema` says what may be
written, `load` merges the layers and resolves secrets and public upstreams, `resolved` is what
the rest of the program gets. Nothing here reads the environment: the caller hands it in.
"""

from artifactproxy.config.load import load
from artifactproxy.config.resolved import Config, Egress, Listen, Log, Remote, Tls

__all__ = ["Config", "Egress", "Listen", "Log", "Remote", "Tls", "load"]
