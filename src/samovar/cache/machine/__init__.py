"""What the machine still has, and what its disks have borne."""
