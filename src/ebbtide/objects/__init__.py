"""Buckets and objects: the embedded object store.

A key in a bucket (`buckets`) names an object (`records`), whose bytes are a content (`contents`) in the
database or in files (`files`). The `store` stages bytes and publishes them; what invocations do by the
hundred goes by the batch (`batches`). Beside it stand multipart uploads (`uploads`), what watchers are told
(`events`, `followers`), what expires (`lifecycle`), and buckets placed in other stores (`outside`).
"""
