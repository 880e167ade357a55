"""Recorded or made-up arrivals, put through the real rules in virtual time: a day of traffic in a second.

`load` is what arrives and how long each takes; `engine` lets it through the queue's own order (priorities,
shares, time to live), the scaling policies and the plan of instances, as the server's loops do; `outcome`
says what came of it. Nothing here reads a clock or does I/O but for the files that `load` is given.
"""
