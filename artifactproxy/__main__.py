"""`python -m artifactproxy` is the command `artifactproxy`."""

from artifactproxy.cli import main

if __name__ == "__main__":
    main()
