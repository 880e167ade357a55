"""How many instances variants should have: AWS's policies, goals of ours, and the loop that acts on them.

Pure are `configurations` (as clients write them), `policies`, `goals` and `schedules`; kept in the database
`targets`, `endpoint_goals` and `activities`. The `scaler` looks (`observation`), has it decided, and changes
the desired counts, which the fleet of `instances` brings about.
"""
