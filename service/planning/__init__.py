"""From the fleet's rows to the planner and back: read, translated, decided in planner processes, recorded."""
