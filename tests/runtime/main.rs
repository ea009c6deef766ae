//! Several nodes in one process: real page faults, real sockets, the library as programs use it.
//! Where the end of a process is part of the story, this binary starts itself as a child.

mod child;
mod stage;

mod accounting;
mod allocation;
mod atomics;
mod backends;
mod calls;
mod clean_leaves;
mod clients;
mod contention;
mod counting;
mod death;
mod eavesdropper;
mod ended;
mod forks;
mod hard_calls;
mod hostile;
mod icmp;
mod interrupts;
mod keeping;
mod keys;
mod leaving;
mod limit;
mod litmus;
mod loss;
mod memory;
mod process;
mod regions;
mod starved;
mod tearing;
mod types;
mod waiting;
