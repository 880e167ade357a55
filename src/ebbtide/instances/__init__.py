"""Instances: what runs the models.

What is wanted (endpoints) and what there is (`records`) make a step's moves (`decision`, from `plan` and
`admission`, on what `measurements` has seen instances take), which the `fleet` carries out. An instance
(`running`) is a model server's process (`launching`, `model_server`, `processes`) with its model's files
(`model_files`), and an `agent` that carries work between queue and it.
"""
