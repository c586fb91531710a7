"""The HTTP listener: health, metrics, JSON for every RPC, ZStack's API. Holds no logic; knows no store or driver."""
