"""Our own API under /_ebbtide/: what AWS's lack, as JSON over plain HTTP with the same signature.

`mount` checks who asks and loads the rest at the first request; `application` puts the routes together, a
module a kind of resource. The document of it all is served at /_ebbtide/openapi.json.
"""
