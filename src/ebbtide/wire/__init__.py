"""AWS's protocols, without I/O and without knowing any service: the service models are the schema.

A request passes through `routing` (which operation), `sigv4` (who sent it), `parse` (its parameters) and
`validate` (the model's constraints); `serialise` makes the answer or the error. Parameters carry the
model's own names and plain values: str, int, float, bool, bytes, list, dict; a timestamp is epoch seconds
(float), both ways, and a result may give a datetime instead.
"""
