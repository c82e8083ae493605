"""BiSeNet (Yu et al., ECCV 2018) as a semantic perception node for ROS 2 robots."""

from pkgutil import extend_path

# Run from a checkout, this folder hides the installed package of the same name, which has the
# generated messages.
__path__ = extend_path(__path__, __name__)
