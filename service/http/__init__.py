"""The HTTP listener: metrics, health and, later, JSON. A thin face; it holds no logic and knows no store or driver."""
