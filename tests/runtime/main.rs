//! Several nodes in one process: real page faults, real sockets, the library as programs use it.

mod rig;

mod memory;
