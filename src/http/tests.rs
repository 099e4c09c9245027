//! The endpoints over real sockets.
