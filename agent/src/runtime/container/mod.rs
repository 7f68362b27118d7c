//! Containers by containerd.
