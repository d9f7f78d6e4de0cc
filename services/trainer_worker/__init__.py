"""The trainer worker: owns the attempts on one machine, from the command to how they ended."""
