"""What a user types: documents as Go reads them. Pure: no I/O."""
