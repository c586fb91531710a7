"""What is asked beside a first placement: drain, rebalance, how many more fit. States requests; the engine answers."""
