"""The only code that runs OR-Tools: a restricted master over columns, and all rules as one CP-SAT model."""
