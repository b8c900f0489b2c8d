"""Configuration of clients: by an image's own name through us, or as a mirror of the registry."""

from __future__ import annotations

from artifactproxy.providers._base import ClientSetup

_DOCKER = """\
# Any image through {base}, with no configuration at all:
docker pull {authority}/{repo}/library/alpine:latest
#
# As the mirror of docker.io (and of no other registry: docker knows mirrors of that one only), where
# {repo} is the remote named by oci_default; /etc/docker/daemon.json, then restart docker:
# {"registry-mirrors": ["{origin}"]}
"""
_DOCKER_INSECURE = """\
# Without TLS docker asks only hosts that it is told to; the same file:
# {"insecure-registries": ["{authority}"]}
"""

_PODMAN = """\
# /etc/containers/registries.conf.d/artifactproxy.conf, also read by buildah, skopeo and CRI-O.
# The image's registry stays in its name; what the mirror ({base}) cannot give comes from there.
[[registry]]
prefix = "docker.io"
location = "docker.io"

[[registry.mirror]]
location = "{authority}/{repo}"
"""

_SKOPEO = """\
# Through {base}; the rest is the same for buildah and podman.
skopeo inspect docker://{authority}/{repo}/library/alpine:latest
skopeo copy --all docker://{authority}/{repo}/library/alpine:latest oci:alpine
"""

_SKOPEO_INSECURE = """\
# Without TLS: --src-tls-verify=false to copy from it, --tls-verify=false to inspect.
"""

_CONTAINERD = """\
# /etc/containerd/certs.d/docker.io/hosts.toml, where config_path = "/etc/containerd/certs.d"; the same
# for each other registry, or one file in certs.d/_default/ that leaves out /{repo}: the registry that an
# image names is told along (?ns=). The API of {base} is:
server = "{origin}/v2/{repo}"  # the registry's own address instead: go there where we cannot help

[host."{origin}/v2/{repo}"]
  capabilities = ["pull", "resolve"]
  override_path = true
"""

_HELM = """\
# Charts that are kept in a registry, through {base}:
helm pull oci://{authority}/{repo}/charts/example --version 1.0.0
"""

CLIENTS = (
    ClientSetup("docker", _DOCKER, _DOCKER_INSECURE),
    ClientSetup("podman", _PODMAN, "insecure = true\n", insecure_at_home=True),
    ClientSetup("skopeo", _SKOPEO, _SKOPEO_INSECURE, insecure_at_home=True),
    ClientSetup("containerd", _CONTAINERD),
    ClientSetup("helm", _HELM, "# Without TLS: --plain-http\n", insecure_at_home=True),
)
