"""The cases of `diagnose_bench.py`: seeded recipes with a known truth, and what is counted of them."""
