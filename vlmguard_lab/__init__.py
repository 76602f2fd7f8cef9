"""Users of `langchain_vlmguard`, never imported by it: the testbed, the evaluation and the benchmarks."""
