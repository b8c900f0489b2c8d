"""Configuration of clients: by an image's own name through us, or as a mirror of the registry; and of those
that push."""

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

_LOGIN = """\
# Reading needs a token (artifactproxy token create NAME --scope read). Any user name will do:
{login}
"""
_CONTAINERD_HEADER = """\
#
  [host."{origin}/v2/{repo}".header]
    Authorization = ["Bearer TOKEN"]"""

_PUSHING = """\
# {base} takes what is pushed to it, with a token that may: artifactproxy token create NAME --scope push:{repo}
# Any user name will do, and the token is the password:
"""
_PUSH_DOCKER = """\
docker login {authority}
docker tag IMAGE {authority}/{repo}/NAME:TAG
docker push {authority}/{repo}/NAME:TAG
docker pull {authority}/{repo}/NAME:TAG
"""
_PUSH_PODMAN = """\
podman login {authority}
podman push IMAGE {authority}/{repo}/NAME:TAG
podman pull {authority}/{repo}/NAME:TAG
"""
_PUSH_PODMAN_INSECURE = """\
# Without TLS, a file in /etc/containers/registries.conf.d/ (or --tls-verify=false):
# [[registry]]
# location = "{authority}"
# insecure = true
"""
_PUSH_SKOPEO = """\
skopeo login {authority}
skopeo copy --all dir:IMAGE docker://{authority}/{repo}/NAME:TAG
skopeo copy --all docker://{authority}/{repo}/NAME:TAG dir:IMAGE
"""
_PUSH_SKOPEO_INSECURE = """\
# Without TLS: --tls-verify=false to log in, --dest-tls-verify=false to copy to it, --src-tls-verify=false from it.
"""
_PUSH_HELM = """\
helm registry login {authority}
helm push CHART-1.0.0.tgz oci://{authority}/{repo}/charts
helm pull oci://{authority}/{repo}/charts/CHART --version 1.0.0
"""
_PUSH_HELM_INSECURE = "# Without TLS: --plain-http\n"


def clients_pushing() -> tuple[ClientSetup, ...]:
    """For a repository that takes pushes."""
    return (
        ClientSetup("docker", _PUSHING + _PUSH_DOCKER, _DOCKER_INSECURE),
        ClientSetup("podman", _PUSHING + _PUSH_PODMAN, _PUSH_PODMAN_INSECURE, insecure_at_home=True),
        ClientSetup("skopeo", _PUSHING + _PUSH_SKOPEO, _PUSH_SKOPEO_INSECURE, insecure_at_home=True),
        ClientSetup("helm", _PUSHING + _PUSH_HELM, _PUSH_HELM_INSECURE, insecure_at_home=True),
    )


def _login(line: str) -> str:
    return _LOGIN.replace("{login}", line)


def clients_of(registry: str) -> tuple[ClientSetup, ...]:
    """For the images of one registry, as references to them name it."""
    example = "library/alpine:latest" if registry == DOCKER else "NAME:TAG"

    def about(text: str) -> str:
        return text.replace("{registry}", registry).replace("{example}", example)

    mirror = _DOCKER_MIRROR if registry == DOCKER else ""
    return (
        ClientSetup(
            "docker", about(_DOCKER + mirror), _DOCKER_INSECURE, login=_login("docker login {authority}")
        ),
        ClientSetup(
            "podman",
            about(_PODMAN),
            "insecure = true\n",
            insecure_at_home=True,
            login=_login("# podman login {authority}"),
        ),
        ClientSetup(
            "skopeo",
            about(_SKOPEO),
            _SKOPEO_INSECURE,
            insecure_at_home=True,
            login=_login("skopeo login {authority}"),
        ),
        ClientSetup(
            "containerd",
            about(_CONTAINERD),
            login=_login(_CONTAINERD_HEADER),
        ),
        ClientSetup(
            "helm",
            about(_HELM),
            "# Without TLS: --plain-http\n",
            insecure_at_home=True,
            login=_login("helm registry login {authority}"),
        ),
    )
