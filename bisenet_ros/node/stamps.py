"""Stamps of messages as numbers."""

from builtin_interfaces.msg import Time


def nanoseconds(stamp: Time) -> int:
    """Return a stamp as one number; it may be negative, which rclpy.time.Time refuses."""
    return stamp.sec * 10**9 + stamp.nanosec
