//! WireGuard in userspace: a TUN link, a UDP socket, and the protocol between them.
