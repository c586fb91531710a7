"""What is asked beside a first placement: drain, repair and rebalance, room made by moves, how many more fit.

States requests; the engine answers.
"""
