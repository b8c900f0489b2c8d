"""Configuration of clients: by an image's own name through us, or as a mirror of the registry."""

from __future__ import annotations

from artifactproxy.providers._base import ClientSetup

DOCKER = "docker.io"

_DOCKER = """\
# Any image of {registry} through {base}, with no configuration at all:
docker pull {authority}/{repo}/{example}
"""
_DOCKER_MIRROR = """\
#
# As the mirror of docker.io (and of no other registry: docker knows mirrors of that one only), where
# {repo} is the remote named by oci_default; /etc/docker/daemon.json, then restart docker:
# {"registry-mirrors": ["{origin}"]}
"""
_DOCKER_INSECURE = """\
# Without TLS docker asks only hosts that it is told to; /etc/docker/daemon.json:
# {"insecure-registries": ["{authority}"]}
"""

_PODMAN = """\
# A file in /etc/containers/registries.conf.d/, also read by buildah, skopeo and CRI-O. Images keep the
# name of their registry; what the mirror ({base}) cannot give comes from there.
[[registry]]
prefix = "{registry}"
location = "{registry}"

[[registry.mirror]]
location = "{authority}/{repo}"
"""

_SKOPEO = """\
# Through {base}; buildah and podman take the same names.
skopeo inspect docker://{authority}/{repo}/{example}
skopeo copy --all docker://{authority}/{repo}/{example} oci:image
"""
_SKOPEO_INSECURE = """\
# Without TLS: --src-tls-verify=false to copy from it, --tls-verify=false to inspect.
"""

_CONTAINERD = """\
# /etc/containerd/certs.d/{registry}/hosts.toml, where config_path = "/etc/containerd/certs.d"; or, for all
# registries at once, certs.d/_default/hosts.toml without the name of the repository: which registry an
# image is of is told along (?ns=). The API of {base} is:
server = "{origin}/v2/{repo}"  # the registry's own address instead: go there where we cannot help

[host."{origin}/v2/{repo}"]
  capabilities = ["pull", "resolve"]
  override_path = true
"""

_HELM = """\
# Charts that are kept in {registry}, through {base}:
helm pull oci://{authority}/{repo}/charts/example --version 1.0.0
"""


def clients_of(registry: str) -> tuple[ClientSetup, ...]:
    """For the images of one registry, as references to them name it."""
    example = "library/alpine:latest" if registry == DOCKER else "NAME:TAG"

    def about(text: str) -> str:
        return text.replace("{registry}", registry).replace("{example}", example)

    mirror = _DOCKER_MIRROR if registry == DOCKER else ""
    return (
        ClientSetup("docker", about(_DOCKER + mirror), _DOCKER_INSECURE),
        ClientSetup("podman", about(_PODMAN), "insecure = true\n", insecure_at_home=True),
        ClientSetup("skopeo", about(_SKOPEO), _SKOPEO_INSECURE, insecure_at_home=True),
        ClientSetup("containerd", about(_CONTAINERD)),
        ClientSetup("helm", about(_HELM), "# Without TLS: --plain-http\n", insecure_at_home=True),
    )
