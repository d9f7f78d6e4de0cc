"""Machines for workers, behind one port: processes on this machine, or pods in Kubernetes."""

from services.provisioner.machines.port import MachineError, Machines

__all__ = ["MachineError", "Machines"]
