"""Beyond one machine: texts are encoded anywhere, in shards, and go into an index or a distributed engine."""
