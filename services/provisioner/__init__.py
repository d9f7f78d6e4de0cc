"""The provisioner: owns which machines workers run on, as many as the waiting tasks need and no more."""
