"""The long run of `make soak`: random operations, kills, and an oracle for every byte.

`world` is the upstream and knows which answers are legal, `drive` asks the real program and kills it,
`syscalls` kills it at each system call of the commit path, `__main__` runs all of it and reports.
"""
