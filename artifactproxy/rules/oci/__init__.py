"""What the OCI distribution specification (1.1) says about names, addresses, media types, manifests
and errors, for who pulls through, who hosts and who guards alike.

`names` names and digests, `operations` what a request under `/v2/` asks for, `media` media types,
`manifests` what a manifest refers to, `problems` errors as its clients read them.
"""
