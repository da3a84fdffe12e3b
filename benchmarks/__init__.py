"""How good and how fast the package is; each module measures one thing: `python -m benchmarks.NAME --help`."""
