"""What a loss of power may leave behind, enumerated from a recording of real file operations.

`recorder` writes down what the program does to its data folder, `states` builds every folder that a
POSIX file system may show after a crash at each moment of it, `judge` starts the program on one.
"""
