"""Tables and figures of the Mirror-BERT paper, measured again: `python -m benchmarks.paper.NAME --help`."""
