"""A storm of faults over a running server, after which every answer with 202 is accounted for.

`plan` draws requests and faults from a seed, `clients` asks, `faults` strikes, `observation` records what a
client can see of it, and `verdict` says which promises were broken. Nothing here looks into the server.
"""
