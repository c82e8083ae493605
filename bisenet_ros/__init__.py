"""BiSeNet (Yu et al., ECCV 2018) as a semantic perception node for ROS 2 robots."""
