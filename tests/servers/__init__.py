"""Real servers on the loopback, with data that are thrown away.

    server = postgres.shared()          # one per process, started at first use
    url = server.fresh_database()
    with redis.Redis() as server:       # one of its own, to be hurt
        server.pause()

A program that is not installed skips the test and names its package (`tests.needs`).
"""
