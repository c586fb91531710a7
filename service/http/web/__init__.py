"""The page for people at `/`: its files, and the one stream that keeps it current. It calls everything else as JSON."""
