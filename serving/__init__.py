"""Serving: a release behind HTTP, with keys, limits in records, and a watch on who asks.

    server · app                 processes, signals and sockets; routes
    bodies · served              JSON to rows and answers to JSON; one queue of micro-batches before the release
    keys · limits                who may ask; how many records
    memory_store · redis_store   where the counts lie, on disk before an answer leaves
    domain · monitor             no valid record; probing by near-duplicates

No measure here changes what one answer tells: only the guard, and noise in training, do.
"""
