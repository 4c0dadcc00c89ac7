"""What mediagate does; the only place that orders blob and index steps."""
